"""Words of the command line that cannot be used: one message, exit code 2, and nothing left on disk."""

from pathlib import Path

import pytest

from srpo_ray.cli import main
from srpo_ray.config import ConfigError, load_run
from tests.conftest import ROOT, SMALL_WORLD

SWEEP = str(ROOT / "configs" / "experiments" / "small_world_sweep.yaml")
CASES = {
    "prompts to a file": (
        ["prompts", "ok.txt", "--to", "file", "--train", "1", "--validation", "1", "--test", "0"],
        "--to: expected a writable folder, got file (",
    ),
    "pairs of a damaged set": (
        ["pairs", "damaged.json", "--set", "hpdv2", "--to", "new"],
        "damaged.json: expected HPDv2",
    ),
    "pairs to a file": (
        ["pairs", "pairs.json", "--set", "hpdv2", "--to", "file"],
        "--to: expected a writable folder, got file (",
    ),
    "project inside a file": (["init", "file/new"], "expected a writable folder, got file/new ("),
    "watch a file": (["watch", "file", "--once"], "expected the folder of a run or an experiment, "),
    "figures in a missing folder": (
        ["plan", str(SMALL_WORLD), "training.num_gpus=0", "--json", "none/plan.json"],
        "--json: expected a writable file, got none/plan.json (No such file or directory); choose another",
    ),
    "home of an unknown user": (
        ["train", str(SMALL_WORLD), "run_root=~nobody_here/runs"],
        "run_root: expected ~, or ~NAME with the name of a user of this machine, got '~nobody_here/runs'",
    ),
    "objective that is no metric": (
        ["sweep", SWEEP, "experiment.objective=held_out"],
        "objective: expected a metric evaluator/NAME, truth/NAME, image/NAME, or votes in an experiment, got",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_unusable_path_is_one_message_and_leaves_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("kept")
    Path("ok.txt").write_text("a red circle\na blue square\n")
    Path("damaged.json").write_text('{"prompt": ')
    Path("pairs.json").write_text('[{"prompt": "a cat", "image_path": ["a.png", "b.png"], "rank": [0, 1]}]')
    before = sorted(tmp_path.rglob("*"))
    words, message = CASES[case]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("srpo-ray: ")
    assert message in error
    assert "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before
    assert Path("file").read_text() == "kept"


def test_override_behind_an_option_is_refused_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    late = "unrecognized arguments: seed=1; write files, overrides and prompts before the options"
    unknown = "unrecognized arguments: --dry-rum"
    cases = ((["--dry-run", "seed=1"], late), (["--dry-rum"], unknown), (["--dry-rum", "5"], f"{unknown} 5"))
    for words, end in cases:
        with pytest.raises(SystemExit, match="2"):
            main(["train", str(SMALL_WORLD), *words])
        assert capsys.readouterr().err.rstrip().endswith(end)


def test_tilde_of_a_config_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = ["run_root=~/runs", "data.prompts=~/p.txt", "data.images=~/images/*.tar", "model.path=~/flux"]
    config = load_run([SMALL_WORLD], [*paths, "training.checkpoint_storage=~/checkpoints"])
    storage = config.training.checkpoint_storage
    found = [config.run_root, config.data.prompts, config.data.images, config.model.path, storage]
    assert found == [str(tmp_path / name) for name in ("runs", "p.txt", "images/*.tar", "flux", "checkpoints")]
    with pytest.raises(ConfigError, match=r"data\.prompts: expected ~, or ~NAME with the name of a user"):
        load_run([SMALL_WORLD], ["data.prompts=~nobody_here/p.txt"])

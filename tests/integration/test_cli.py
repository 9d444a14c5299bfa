"""What a person meets at the command line."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import ray
import yaml
from ray._private.state import state as cluster_state

from srpo_ray.cli import main
from srpo_ray.cli.dispatch import COMMANDS
from srpo_ray.cluster import command as cluster_command
from srpo_ray.cluster.command import Command
from srpo_ray.launch import train as launch_train
from srpo_ray.small_world.weights import WEIGHTS
from tests.conftest import ROOT, SMALL_WORLD


def run(*words: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "srpo_ray.cli", *words],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    check = (
        "import sys\nfrom srpo_ray.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'ray', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0
    assert "usage: srpo-ray" in found.stdout


@pytest.mark.parametrize("module", ["srpo_ray.cli.dispatch", "srpo_ray.cli.plan", "srpo_ray.config"])
def test_ctrl_c_during_imports_is_one_message(module: str) -> None:
    script = (
        "import sys\nfrom srpo_ray.cli import main\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}:\n            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        f"sys.exit(main(['train', {str(SMALL_WORLD)!r}, '--dry-run']))"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 130
    assert found.stderr == "srpo-ray: stopped; the same command continues from the last checkpoint or shard\n"


def test_dry_run_prints_a_config_that_loads_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(SMALL_WORLD), "training.optimizer.lr=2e-6", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["training"]["optimizer"]["lr"] == 2e-6
    (tmp_path / "printed.yaml").write_text(printed)
    assert main(["train", str(tmp_path / "printed.yaml"), "--dry-run"]) == 0
    assert capsys.readouterr().out == printed


def test_dry_run_of_a_sweep_shows_space_and_base(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "experiment.search.num_samples=3", "--dry-run"]) == 0
    experiment, base = yaml.safe_load_all(capsys.readouterr().out)
    assert experiment["search"]["num_samples"] == 3
    assert base["name"] == "small_world"


@pytest.mark.parametrize(
    ("words", "sent", "folder"),
    [
        (["train", "FILE", "seed=3"], ["FILE", "seed=3"], "runs/small_world"),
        (["encode", "FILE", "--actors", "3"], ["FILE", "--actors", "3"], None),
        (["sweep", "experiment.name=mine"], ["experiment.name=mine"], "runs/mine"),
        (["compare", "experiment.name=mine"], ["experiment.name=mine"], "runs/mine"),
        (["compare", "--resume", "runs/begun"], ["--resume", "runs/begun"], "runs/begun"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_cluster_job_gets_the_command_and_brings_back_its_results_folder(
    words: list[str], sent: list[str], folder: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    started: list[tuple[object, ...]] = []

    def start(*arguments: object) -> int:
        started.append(arguments)
        return 7

    monkeypatch.setattr(cluster_command, "start", start)
    words, sent = ([str(SMALL_WORLD) if word == "FILE" else word for word in part] for part in (words, sent))
    assert main([*words, "--cluster", "cluster.yaml"]) == 7
    assert started == [("cluster.yaml", Command(words[0], tuple(sent)), folder)]


@pytest.mark.parametrize("command", ["train", "encode", "sweep", "compare"])
def test_mistake_in_a_config_is_reported_before_a_cluster_is_asked(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    file = [str(SMALL_WORLD)] if command in ("train", "encode") else []
    assert main([command, *file, "training.num_updates=-1", "--cluster", "no_cluster.yaml"]) == 2
    assert "training.num_updates: expected to be greater than or equal to 0" in capsys.readouterr().err


def bad_inputs(folder: Path) -> dict[str, tuple[list[str], str]]:
    (folder / "empty.txt").write_text("\n")
    (folder / "broken.jsonl").write_text('"a cat"\n{"prompt": \n')
    (folder / "no_model").mkdir()
    shutil.copytree(WEIGHTS / "flux", folder / "half")
    shutil.rmtree(folder / "half" / "vae")
    train = ["train", str(SMALL_WORLD), f"run_root={folder / 'runs'}"]
    arm = {"name": "SRPO", "space": {"algorithm.nothing": {"uniform": [0, 1]}}}
    probe = ["words", str(SMALL_WORLD), "--reward", "preference"]
    (folder / "no_images").mkdir()
    (folder / "broken_images").mkdir()
    for index in range(8):
        (folder / "broken_images" / f"{index}.png").write_text("no image")
    unknown = {"base": str(SMALL_WORLD), "arms": [arm]}
    (folder / "unknown.yaml").write_text(yaml.safe_dump(unknown))
    return {
        "unknown key": ([*train, "training.lr=1"], "got an unknown key"),
        "wrong type": ([*train, "training.num_updates=soon"], "got 'soon'"),
        "reversed window": ([*train, "algorithm.timestep_window=[25,5]"], "got [25, 5]"),
        "window outside": ([*train, "algorithm.timestep_window=[5,90]"], "got [5, 90]"),
        "unknown words": ([*train, "algorithm.control_words=nice"], "got 'nice'"),
        "missing file": (["train", str(folder / "none.yaml")], "expected a readable YAML file"),
        "empty prompts": ([*train, f"data.prompts={folder / 'empty.txt'}"], "expected at least one prompt"),
        "no actors": (["encode", *train[1:], "--actors", "0"], "--actors: expected at least 1, got 0"),
        "broken rows": (
            [*train, f"data.prompts={folder / 'broken.jsonl'}"],
            "got 1 of 2 without: entry 2 (expected JSON",
        ),
        "no captions": ([*train, f"data.images={folder / 'broken_images'}"], "expected a caption beside every"),
        "no model": ([*train, f"model.path={folder / 'no_model'}"], "give the folder that `save_pretrained`"),
        "half a model": ([*train, f"model.path={folder / 'half'}"], "which has no vae/config.json; give the folder"),
        "unwritable run folder": ([*train[:-1], "run_root=/proc/runs"], "expected a writable folder"),
        "unknown search key": (["sweep", str(folder / "unknown.yaml")], "got an unknown key"),
        "nothing to resume": (["sweep", "--resume", str(folder)], "expected the folder of an experiment"),
        "no comparison to resume": (["compare", "--resume", str(folder)], "expected the folder of an experiment"),
        "nothing to sample": (["sample", str(folder), "a cat"], "expected the folder of a trained run"),
        "no text to sample": (["sample", str(folder), "a cat", "caf\udce9"], "the command line, got 1 of 2 without"),
        "unknown reward": ([*probe[:-1], "beauty", "--words", "dark,dim"], "--reward: expected a model of"),
        "no words": ([*probe, "--words", " ,"], "got none"),
        "one word": ([*probe, "--words", "dark,dark"], "got dark"),
        "no word file": ([*probe, "--words", str(folder / "none.txt")], "none.txt"),
        "no image folder": ([*probe, "--words", "dark,dim", "--images", str(folder / "none")], "folder of images"),
        "no images": (
            [*probe, "--words", "dark,dim", "--images", str(folder / "no_images")],
            "expected at least 8",
        ),
        "broken image": ([*probe, "--words", "dark,dim", "--images", str(folder / "broken_images")], "0.png"),
        "few generated": ([*probe, "--words", "dark,dim", "--generate", "3"], "got 3"),
        "no word prompts": (
            [*probe, "--words", "dark,dim", "--prompts", str(folder / "none.json")],
            "--prompts: expected",
        ),
        "nothing to render": (
            ["words", str(SMALL_WORLD), "model.path=some/model", *probe[2:], "--words", "dark,dim"],
            "give --images DIR or --generate N",
        ),
    }


@pytest.mark.parametrize(
    "case",
    [
        "unknown key",
        "wrong type",
        "reversed window",
        "window outside",
        "unknown words",
        "missing file",
        "empty prompts",
        "no model",
        "half a model",
        "unwritable run folder",
        "unknown search key",
        "nothing to resume",
        "no comparison to resume",
        "nothing to sample",
        "no text to sample",
        "unknown reward",
        "no words",
        "one word",
        "no word file",
        "no image folder",
        "no images",
        "broken image",
        "few generated",
        "no word prompts",
        "nothing to render",
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = bad_inputs(tmp_path)[case]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("srpo-ray: ")
    assert message in error
    assert "Traceback" not in error


@pytest.mark.usefixtures("ray_cluster")
def test_more_workers_than_the_cluster_can_ever_place_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(SMALL_WORLD), f"run_root={tmp_path}", "training.num_workers=512", "training.batch_size=512"]
    start = time.monotonic()
    assert main(words) == 2
    assert time.monotonic() - start < 30
    error = capsys.readouterr().err
    assert "training.num_workers: expected at most" in error
    assert "got 512" in error


@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_leave_no_room_for_the_rewards_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    words = ["train", str(SMALL_WORLD), f"run_root={tmp_path}", "training.num_cpus=1", f"training.batch_size={cpus}"]
    assert main([*words, f"training.num_workers={cpus}"]) == 2
    error = capsys.readouterr().err
    assert f"expected {cpus} workers of {{'CPU': 1.0}} and 1 reward replicas" in error
    assert "lower either number" in error


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("by", ["flag", "environment"])
def test_an_existing_cluster_is_used(by: str, tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    before = len(cluster_state.job_table())
    # Refused by what the cluster has, which is asked once it is connected.
    words = ["train", str(SMALL_WORLD), f"run_root={tmp_path}", "training.num_workers=512", "training.batch_size=512"]
    flag, environment = (["--address", address], {}) if by == "flag" else ([], {"RAY_ADDRESS": address})
    found = run(*words, *flag, environment=environment)
    assert found.returncode == 2
    assert "training.num_workers: expected at most" in found.stderr
    assert len(cluster_state.job_table()) == before + 1


def test_address_without_a_cluster_is_refused(tmp_path: Path) -> None:
    found = run("train", str(SMALL_WORLD), f"run_root={tmp_path}", "--address", "127.0.0.1:1")
    assert found.returncode == 2
    assert "expected a running Ray cluster at '127.0.0.1:1', got none" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.usefixtures("ray_cluster")
def test_prompts_that_are_left_out_or_repeated_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object) -> None:
        raise ValueError("the imports of the training loop begin")

    monkeypatch.setattr(launch_train, "prepare_process", stop)
    (tmp_path / "p.txt").write_text("a cat\n\na cat\n")
    words = ["train", str(SMALL_WORLD), f"data.prompts={tmp_path / 'p.txt'}", f"run_root={tmp_path}"]
    assert main([*words, "rewards.in_process=true"]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'p.txt'}: 2 prompts, 1 empty entries left out, 1 repeated prompts kept\n" in said
    assert said.endswith("the imports of the training loop begin\n")


def test_training_on_the_evaluated_prompts_is_refused_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(SMALL_WORLD), "evaluation.prompts=small_world:train", "run_root=/proc/runs"]) == 2
    (refused,) = capsys.readouterr().err.splitlines()
    assert "evaluation.prompts: expected prompts that the run does not train on" in refused


def test_words_are_ranked_and_written_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["words", str(SMALL_WORLD), "evaluation.num_steps=2", "--reward", "contrastive", "--generate", "8"]
    assert main([*words, "--words", "cyberpunk,dark,bright", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "contrastive on 8 images generated by small_world" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"words.html", "words.json", "words.csv"}


def test_traceback_never_reaches_a_person_even_from_a_fresh_process(tmp_path: Path) -> None:
    found = run("train", str(SMALL_WORLD), f"run_root={tmp_path}", "training.num_updates=-1")
    assert found.returncode == 2
    assert "Traceback" not in found.stderr
    assert "training.num_updates: expected to be greater than or equal to 0; got -1" in found.stderr


def test_script_is_the_same_command(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, str(ROOT / "experiments/sweep.py"), "--dry-run"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0
    assert "name: small_world_sweep" in found.stdout

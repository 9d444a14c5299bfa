"""Comparison of a run's recorded inputs with its present ones."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from PIL import Image

from srpo_ray.config import RunConfig, load_run
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.launch.preflight import open_run_folder, release_folder_on_early_failure
from srpo_ray.rewards.base import RewardScorer
from srpo_ray.runs.folder import RunFolder, append_row
from srpo_ray.runs.inputs import input_hashes
from srpo_ray.small_world.weights import flux_dir, reward_dir
from srpo_ray.training import setup
from tests.conftest import SMALL_WORLD


def write_inputs(root: Path) -> None:
    """Copies of everything that a run can read, in a folder of its own."""
    (root / "train.txt").write_text("a red circle\na blue square\n")
    (root / "test.txt").write_text("a green ring\na white cross\na black star\n")
    (root / "final.txt").write_text("a gray moon\na pink cube\n")
    shutil.copytree(flux_dir(), root / "flux")
    for name in ("preference", "held_out"):
        shutil.copytree(reward_dir(name), root / name)
    (root / "images").mkdir()
    Image.new("RGB", (64, 64), "red").save(root / "images" / "a.png")
    (root / "images" / "a.txt").write_text("a red field")


def config_of(root: Path) -> RunConfig:
    return with_absolute_paths(
        load_run(
            [SMALL_WORLD],
            [
                "name=mine",
                f"run_root={root / 'runs'}",
                f"data={{prompts: {root / 'train.txt'}, images: {root / 'images'}, image_ratio: 0.5}}",
                f"evaluation.prompts={root / 'test.txt'}",
                "evaluation.num_prompts=2",
                f"evaluation.test.prompts={root / 'final.txt'}",
                f"model.path={root / 'flux'}",
                f"rewards.models.0.path={root / 'preference'}",
                f"evaluation.held_out.0.path=local-dir:{root / 'held_out'}",
            ],
        )
    )


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    write_inputs(tmp_path)
    return config_of(tmp_path)


def folder_of(config: RunConfig) -> Path:
    return Path(config.run_root) / config.name


def begin(config: RunConfig) -> RunFolder:
    """A run that was begun and stopped."""
    folder = open_run_folder(config, folder_of(config))
    folder.tracker_record.write_text("{}")
    append_row(folder.updates, {"update": 1})
    return folder


def flip(file: Path) -> None:
    """Another byte in the middle of the file, whose size and modification time stay."""
    stat, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "as many other prompts": (
        lambda root: (root / "train.txt").write_text("a red circle\na blue ring\n"),
        r"data\.prompts: \S*train\.txt",
    ),
    "fewer prompts": (lambda root: (root / "train.txt").write_text("a red circle\n"), r"data\.prompts: \S*train\.txt"),
    "prompts in another order": (
        lambda root: (root / "train.txt").write_text("a blue square\na red circle\n"),
        r"data\.prompts: \S*train\.txt",
    ),
    "as many other evaluation prompts": (
        lambda root: (root / "test.txt").write_text("a green ring\na white star\na black star\n"),
        r"evaluation\.prompts: \S*test\.txt",
    ),
    "fewer evaluation prompts": (
        lambda root: (root / "test.txt").write_text("a green ring\n"),
        r"evaluation\.prompts: \S*test\.txt",
    ),
    "another test prompt": (
        lambda root: (root / "final.txt").write_text("a gray moon\na pink ball\n"),
        r"evaluation\.test\.prompts: \S*final\.txt",
    ),
    "an edited caption": (
        lambda root: (root / "images" / "a.txt").write_text("a red wall"),
        r"data\.images: \S*images \(captions\)",
    ),
    "another image": (
        lambda root: Image.new("RGB", (80, 64), "blue").save(root / "images" / "a.png"),
        r"data\.images: images of \S*images \(names and contents\)",
    ),
    "an image of the same size and modification time": (
        lambda root: flip(root / "images" / "a.png"),
        r"data\.images: images of \S*images \(names and contents\)",
    ),
    "a VAE of the same size": (
        lambda root: flip(root / "flux" / "vae" / "diffusion_pytorch_model.safetensors"),
        r"model\.path: \S*flux \(vae/diffusion_pytorch_model\.safetensors\)",
    ),
    "a new file of the model": (
        lambda root: (root / "flux" / "text_encoder" / "model.fp16.safetensors").write_bytes(b"x"),
        r"model\.path: \S*flux \(text_encoder/model\.fp16\.safetensors\)",
    ),
    "a reward": (
        lambda root: flip(root / "preference" / "open_clip_model.safetensors"),
        r"rewards\.models\.0\.path: \S*preference \(open_clip_model\.safetensors\)",
    ),
    "a held-out reward that lacks a file": (
        lambda root: (root / "held_out" / "tokenizer.json").unlink(),
        r"evaluation\.held_out\.0\.path: \S*held_out \(tokenizer\.json\)",
    ),
}


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("case", CHANGES)
def test_run_is_refused_with_the_name_of_the_file_that_changed(
    config: RunConfig, tmp_path: Path, case: str, *, finished: bool
) -> None:
    folder = begin(config)
    if finished:
        folder.finished.write_text("{}")
    change, message = CHANGES[case]
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    change(tmp_path)
    with pytest.raises(ValueError, match=f"{message}.*restore it, or choose another `name` or remove the folder"):
        open_run_folder(config, folder.path)
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_run_resumes_if_files_were_rewritten_with_the_same_content(config: RunConfig, tmp_path: Path) -> None:
    folder = begin(config)
    for file in (path for path in tmp_path.rglob("*") if path.suffix in (".txt", ".json", ".safetensors")):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
        os.utime(file, (1, 1))
    # Blanks around prompts, evaluation prompts beyond the first two and hidden files are not read.
    (tmp_path / "train.txt").write_text("  a red circle\r\na blue square")
    (tmp_path / "test.txt").write_text("a green ring\na white cross\nanother\nand another\n")
    (tmp_path / "flux" / "vae" / ".DS_Store").write_bytes(b"x")
    assert open_run_folder(config, folder.path).path == folder.path


def test_hashes_do_not_depend_on_where_the_files_are(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    write_inputs(tmp_path / "here")
    here = input_hashes(config_of(tmp_path / "here"))
    shutil.copytree(tmp_path / "here", tmp_path / "there", dirs_exist_ok=True)
    there = input_hashes(config_of(tmp_path / "there"))
    assert [list(sources.values()) for sources in here.values()] == [
        list(sources.values()) for sources in there.values()
    ]
    assert (
        here.keys()
        == there.keys()
        == {
            "data.prompts",
            "data.images",
            "evaluation.prompts",
            "evaluation.test.prompts",
            "model.path",
            "rewards.models.0.path",
            "rewards.models.1.path",
            "evaluation.held_out.0.path",
        }
    )


def test_run_that_did_not_start_leaves_no_record_to_the_next(config: RunConfig, tmp_path: Path) -> None:
    folder = open_run_folder(config, folder_of(config))
    with pytest.raises(ValueError, match="too small"), release_folder_on_early_failure(folder):
        raise ValueError("the cluster is too small")
    assert not folder.inputs.exists()
    (tmp_path / "train.txt").write_text("something else\n")
    open_run_folder(config, folder.path)
    (tmp_path / "train.txt").write_text("a third\n")
    with pytest.raises(ValueError, match=r"data\.prompts"):
        open_run_folder(config, folder.path)


def test_run_killed_between_its_record_and_its_config_starts_from_scratch(config: RunConfig, tmp_path: Path) -> None:
    folder = open_run_folder(config, folder_of(config))
    folder.config.unlink()
    (tmp_path / "train.txt").write_text("something else\n")
    open_run_folder(config, folder.path)
    assert open_run_folder(config, folder.path).config.exists()


def test_results_without_a_record_are_refused_and_a_folder_without_results_gets_one(config: RunConfig) -> None:
    folder = open_run_folder(config, folder_of(config))
    folder.inputs.unlink()
    assert open_run_folder(config, folder.path).inputs.exists()
    append_row(folder.evaluations, {"update": 0})
    folder.inputs.unlink()
    with pytest.raises(ValueError, match=r"expected inputs\.json in .*choose another `name`"):
        open_run_folder(config, folder.path)
    folder.inputs.write_text('{"data.prompts": []}')
    with pytest.raises(ValueError, match=r"expected .*inputs\.json to contain the hashes"):
        open_run_folder(config, folder.path)


def test_entry_that_was_deleted_is_recorded_anew(config: RunConfig, tmp_path: Path) -> None:
    folder = begin(config)
    (tmp_path / "train.txt").write_text("something else\n")
    record = json.loads(folder.inputs.read_text())
    del record["data.prompts"]
    folder.inputs.write_text(json.dumps(record))
    open_run_folder(config, folder.path)
    (tmp_path / "train.txt").write_text("a third\n")
    with pytest.raises(ValueError, match=r"data\.prompts"):
        open_run_folder(config, folder.path)


def test_worker_that_reads_other_prompts_than_the_driver_stops_before_it_loads_the_model(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begin(config)
    monkeypatch.setattr(setup, "dist", SimpleNamespace(get_rank=lambda: 1, get_world_size=lambda: 2))
    monkeypatch.setattr(setup, "prepare_features", lambda *_: pytest.fail("the run was built"))
    (tmp_path / "test.txt").write_text("a local copy\nof this host\n")
    with pytest.raises(ValueError, match=r"evaluation\.prompts: \S*test\.txt .*give every host the same copy"):
        setup.build_trainer(config, folder, cast("RewardScorer", None), "cpu", None)


def test_worker_may_read_a_copy_of_the_images_with_other_modification_times(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begin(config)
    monkeypatch.setattr(setup, "dist", SimpleNamespace(get_rank=lambda: 1, get_world_size=lambda: 2))
    monkeypatch.setattr(setup, "prepare_features", lambda *_: pytest.fail("the run was built"))
    os.utime(tmp_path / "images" / "a.png", (1, 1))
    with pytest.raises(pytest.fail.Exception, match="the run was built"):
        setup.build_trainer(config, folder, cast("RewardScorer", None), "cpu", None)


def test_checkpoint_files_and_cached_hub_models_of_rewards_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "head.pt").write_bytes(b"first")
    reward = {"type": "aesthetic", "name": "held_out", "path": str(tmp_path / "head.pt"), "backbone": "org/clip"}
    config = load_run([SMALL_WORLD], [f"run_root={tmp_path}", f"evaluation.held_out=[{json.dumps(reward)}]"])
    folder = begin(config)
    # The hub's model comes with the first start and counts from then on.
    reference = tmp_path / "hub" / "models--org--clip" / "refs" / "main"
    reference.parent.mkdir(parents=True)
    for commit in ("1234", "1234"):
        reference.write_text(commit)
        open_run_folder(config, folder.path)
    reference.write_text("5678")
    with pytest.raises(ValueError, match=r"evaluation\.held_out\.0\.backbone: org/clip \(commit\)"):
        open_run_folder(config, folder.path)
    reference.write_text("1234")
    (tmp_path / "head.pt").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"evaluation\.held_out\.0\.path: \S*head\.pt \(head\.pt\)"):
        open_run_folder(config, folder.path)


def test_changed_code_of_a_reward_is_reported_and_the_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    code = tmp_path / "reward_that_is_fixed.py"
    code.write_text("class Mine:\n    image_gradient = True\n")
    reward = {"type": "python", "name": "held_out", "target": "reward_that_is_fixed:Mine"}
    config = load_run([SMALL_WORLD], [f"run_root={tmp_path}", f"evaluation.held_out=[{json.dumps(reward)}]"])
    folder = begin(config)
    open_run_folder(config, folder.path)
    assert not caplog.records
    code.write_text("class Mine:\n    image_gradient = True  # and the fix\n")
    open_run_folder(config, folder.path)
    assert "evaluation.held_out.0.target: reward_that_is_fixed:Mine (reward_that_is_fixed.py)" in caplog.text
    assert "reward_that_is_fixed" not in sys.modules

"""What belongs to a run that starts from a LoRA: its checkpoints, its baseline and the content of the file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from srpo_ray.config import RunConfig, load_run
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.config.baseline_settings import baseline_settings
from srpo_ray.config.continuation import run_identity
from srpo_ray.data.rollouts import RolloutCache
from srpo_ray.inference.export import DIFFUSERS_LORA, export_run
from srpo_ray.inference.job import Model, SamplingJob
from srpo_ray.models.contrast import BASE, TUNED
from srpo_ray.models.trainable import load_tuned
from srpo_ray.runs.checkpoint import save_checkpoint
from srpo_ray.runs.inputs import input_hashes, keep_inputs, lora_hashes
from srpo_ray.runs.storage import Storage
from srpo_ray.runs.trained import read_trained
from tests.conftest import SMALL_WORLD
from tests.helpers.training.trained_run import trained_run

LAYER = "transformer.transformer_blocks.0.attn.to_q"


def save_lora(file: Path, value: float = 0.1) -> Path:
    """Write an adapter of rank 1 for one layer of the small world's transformer."""
    config = load_run([SMALL_WORLD])
    weight = load_tuned(config, torch.float32, "cpu", None).get_parameter(f"{LAYER.partition('.')[2]}.weight")
    outputs, inputs = weight.shape
    tensors = {"lora_A": torch.full((1, inputs), value), "lora_B": torch.ones(outputs, 1)}
    save_file({f"{LAYER}.{part}.weight": tensor for part, tensor in tensors.items()}, file)
    return file


def lora_run(*settings: str) -> RunConfig:
    return load_run([SMALL_WORLD], [f"model.lora={{rank: 4, {', '.join(settings)}}}"])


def test_merged_lora_belongs_to_checkpoints_and_a_continued_one_does_not(tmp_path: Path) -> None:
    plain, continued, merged = lora_run(), lora_run("start_from: x"), lora_run("start_from: x", "start_mode: merge")
    assert run_identity(continued) == run_identity(plain)
    assert run_identity(merged)["model.lora"] == {**run_identity(plain)["model.lora"], "merged": "x"}


def test_baseline_is_shared_by_runs_from_the_same_lora_alone() -> None:
    full = load_run([SMALL_WORLD])
    runs = [lora_run("start_from: x"), lora_run("start_from: y"), lora_run("start_from: x", "start_mode: merge")]
    keys = [json.dumps(baseline_settings(run, run.evaluation)) for run in (full, lora_run(), *runs)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.safetensors").touch()
    lora = with_absolute_paths(lora_run("start_from: x.safetensors")).model.lora
    assert lora is not None
    assert lora.start_from == str(tmp_path / "x.safetensors")


def test_images_of_a_base_model_belong_to_the_content_of_the_merged_lora(tmp_path: Path) -> None:
    file = save_lora(tmp_path / "x.safetensors")
    settings = [f"start_from: {file}", "start_mode: merge"]
    before = RolloutCache(lora_run(*settings)).store.folder
    assert RolloutCache(lora_run(*settings, "alpha: 8")).store.folder == before
    plain = RolloutCache(lora_run()).store.folder
    # A continued LoRA is no part of the base model.
    assert RolloutCache(lora_run(settings[0])).store.folder == plain != before
    save_lora(file, 0.2)
    assert RolloutCache(lora_run(*settings)).store.folder not in (before, plain)


def test_run_that_merged_a_lora_is_read_with_the_same_file_only(tmp_path: Path) -> None:
    file = save_lora(tmp_path / "x.safetensors")
    config, _ = trained_run(tmp_path / "run", f"model.lora={{rank: 4, start_from: {file}, start_mode: merge}}")
    keep_inputs(tmp_path / "run" / "inputs.json", input_hashes(config), has_results=False, cure="")
    run = read_trained(tmp_path / "run")
    assert lora_hashes(config).items() <= run.model.items()
    job = SamplingJob(
        config, (Model("base", run, BASE), Model("tuned", run, TUNED)), ("a red circle",), tmp_path / "out"
    )
    assert all(described["model"] == dict(run.model) for described in job.description["models"].values())
    export_run(tmp_path / "run", tmp_path / "out")
    assert (tmp_path / "out" / DIFFUSERS_LORA).exists()
    save_lora(file, 0.2)
    with pytest.raises(ValueError, match=r"model.lora.start_from: .*expected the content .* copy of the LoRA"):
        read_trained(tmp_path / "run")


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (None, "expected a checkpoint of a run with model.lora"),
        (
            {"rank": 4, "alpha": None, "merged": "y"},
            "expected adapters of the published model, .* start from the export",
        ),
    ],
)
def test_checkpoint_without_all_that_was_trained_is_refused(
    tmp_path: Path, lora: dict[str, object] | None, message: str
) -> None:
    weights = {f"{LAYER.partition('.')[2]}.lora_A.default.weight": torch.ones(4, 8)}
    storage = Storage(tmp_path / "checkpoints")
    save_checkpoint(storage, 2, weights, {}, {}, {"model.lora": lora}, kept=1)
    run = lora_run(f"start_from: {tmp_path}/checkpoints/update_000002")
    with pytest.raises(ValueError, match=message):
        load_tuned(run, torch.float32, "cpu", None)

"""Start of a run from another run's checkpoint: what must be equal, and what is copied."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from srpo_ray.config import RunConfig, apply, load_run, to_yaml
from srpo_ray.config.continuation import check_continues, evaluated_alike, run_identity
from srpo_ray.runs.checkpoint import copy_checkpoint, load_checkpoint, read_checkpoint, save_checkpoint
from srpo_ray.runs.folder import RunFolder, append_row, read_rows
from srpo_ray.runs.inputs import contrast_hashes
from srpo_ray.runs.start_from import check_start, continued, started_at, take_over
from srpo_ray.runs.storage import Storage
from tests.conftest import SMALL_WORLD
from tests.helpers.training.contrasted_runs import finished_run

BASE = load_run([SMALL_WORLD])


def source_run(tmp_path: Path, **changes: Any) -> RunConfig:
    """A finished run of 20 updates, evaluated after 0, 10 and 20; the config of one that continues from it."""
    folder = RunFolder(tmp_path / "first")
    folder.make()
    before = apply(BASE, {"run_root": str(tmp_path), "name": "first", "training.num_updates": 20})
    folder.config.write_text(to_yaml(before))
    folder.finished.write_text("{}")
    folder.base_images.write_bytes(b"images")
    for update in range(1, 21):
        append_row(folder.updates, {"update": update})
    for update in (0, 10, 20):
        append_row(folder.evaluations, {"update": update, "evaluator/held_out": update / 10})
    append_row(folder.test_scores, {"update": 0, "scores": {}})
    append_row(folder.test_scores, {"update": 20, "scores": {}})
    for update in (10, 20):
        weights = {"layer": torch.full((3,), float(update))}
        save_checkpoint(Storage(folder.checkpoints), update, weights, {"layer/exp_avg": weights["layer"]}, {}, {}, 2)
    return apply(before, {"name": "second", "start_from": str(folder.path), "training.num_updates": 40, **changes})


def test_adapters_of_unset_layers_have_the_identity_of_versions_that_listed_them() -> None:
    layers = [f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")]
    layers += [f"attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")]
    layers += [f"{stream}.net.{name}" for stream in ("ff", "ff_context") for name in ("0.proj", "2")]
    unset = apply(BASE, {"model.lora": {"rank": 4}})
    resolved = {"rank": 4, "alpha": None, "target_modules": layers}
    assert run_identity(unset)["model.lora"] == resolved
    assert apply(BASE, {"model.lora": resolved}) == unset
    others = apply(BASE, {"model.lora": {"rank": 4, "target_modules": layers[:4]}})
    assert run_identity(others)["model.lora"] == {**resolved, "target_modules": layers[:4]}


def new_folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "second")
    folder.make()
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 7}, "expected the seed of the run that it continues from, 0, got 7"),
        ({"training.batch_size": 4}, "expected the training.batch_size .* 8, got 4"),
        ({"model.lora": {}}, "expected the model.lora .* none, got"),
        ({"training.ema": {}}, "expected the training.ema .* False, got True"),
        ({"algorithm": {"type": "refl"}}, "expected the algorithm.type .* srpo, got refl"),
        ({"training.num_updates": 20}, "expected training.num_updates above 20, .* got 20"),
        ({"rollout.reuse": 3}, "a multiple of rollout.reuse=3 updates, .* got 20"),
    ],
)
def test_run_that_the_checkpoint_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    config = source_run(tmp_path)
    with pytest.raises(ValueError, match=message):
        check_start(apply(config, change))


def test_checkpoint_inside_a_reuse_window_of_either_run_is_refused() -> None:
    before = apply(BASE, {"rollout.reuse": 3})
    with pytest.raises(ValueError, match="reuse=3"):
        check_continues(before, BASE, 20)
    check_continues(before, BASE, 21)


def test_learning_rate_resolution_rollouts_rewards_and_evaluation_may_differ(tmp_path: Path) -> None:
    changes = {
        "training.optimizer.lr": 1e-5,
        "model.resolution": 128,
        "rollout.source": "base_model",
        "rollout.num_steps": 3,
        "evaluation.num_prompts": 4,
        "algorithm.control_words": "vivid",
        "rewards.models.0.weight": 0.5,
    }
    check_start(source_run(tmp_path, **changes))


@pytest.mark.parametrize("problem", ["missing", "unfinished", "no checkpoint"])
def test_source_that_is_no_finished_run_with_a_checkpoint_is_refused(tmp_path: Path, problem: str) -> None:
    config, source = source_run(tmp_path), RunFolder(tmp_path / "first")
    if problem == "missing":
        config = apply(config, {"start_from": str(tmp_path / "nothing")})
    elif problem == "unfinished":
        source.finished.unlink()
    else:
        for update in (10, 20):
            Storage(source.checkpoints).remove(f"update_{update:06d}")
    with pytest.raises(ValueError, match="start_from: expected"):
        check_start(config)


def test_newest_checkpoint_and_history_are_taken_over_once(tmp_path: Path) -> None:
    config, folder = source_run(tmp_path), new_folder(tmp_path)
    take_over(config, folder)
    found = load_checkpoint(Storage(folder.checkpoints), {})
    assert found is not None
    assert (found.update, started_at(folder)) == (20, 20)
    assert found.weights["layer"].tolist() == found.optimizer["layer/exp_avg"].tolist() == [20.0] * 3
    assert len(read_rows(folder.updates)) == 20
    assert [row["update"] for row in read_rows(folder.evaluations)] == [0, 10, 20]
    # The weights that the other run was tested with are not those that stand for this one.
    assert [row["update"] for row in read_rows(folder.test_scores)] == [0]
    assert folder.base_images.read_bytes() == b"images"

    append_row(folder.updates, {"update": 21})
    take_over(config, folder)
    assert len(read_rows(folder.updates)) == 21
    # The other run is no longer needed, and no longer changed.
    Storage(RunFolder(tmp_path / "first").checkpoints).remove("update_000020")
    check_start(config)
    assert read_checkpoint(Storage(folder.checkpoints), 20).weights["layer"].tolist() == [20.0] * 3


def test_evaluations_on_other_prompts_are_not_taken_over_but_costs_are(tmp_path: Path) -> None:
    config, folder = source_run(tmp_path, **{"evaluation.num_prompts": 4}), new_folder(tmp_path)
    take_over(config, folder)
    assert len(read_rows(folder.updates)) == 20
    assert not folder.evaluations.exists()
    assert not folder.test_scores.exists()
    assert not folder.base_images.exists()


@pytest.mark.parametrize("retrained", [False, True])
def test_evaluations_in_contrast_with_another_content_are_not_taken_over(tmp_path: Path, retrained: bool) -> None:
    other = finished_run(tmp_path / "other", "model.lora={rank: 4}")
    contrast = {"evaluation.rl_guidance": 2, "evaluation.contrast_with": str(other)}
    config, folder = source_run(tmp_path, **contrast), new_folder(tmp_path)
    source = RunFolder(tmp_path / "first")
    source.config.write_text(to_yaml(apply(load_run([source.config]), contrast)))
    source.inputs.write_text(json.dumps(contrast_hashes(config)))
    if retrained:
        shutil.rmtree(other)
        finished_run(other, "model.lora={rank: 4}", seed=1)
    assert continued(config) == (20, not retrained)
    take_over(config, folder)
    assert len(read_rows(folder.updates)) == 20
    assert folder.evaluations.exists() is not retrained


def test_copy_that_was_interrupted_is_repeated(tmp_path: Path) -> None:
    config, folder = source_run(tmp_path), new_folder(tmp_path)
    take_over(config, folder)
    folder.start.unlink()
    take_over(config, folder)
    assert started_at(folder) == 20
    assert len(read_rows(folder.updates)) == 20


def test_damaged_checkpoint_is_not_taken_over(tmp_path: Path) -> None:
    config, folder = source_run(tmp_path), new_folder(tmp_path)
    weights = next(Path(RunFolder(tmp_path / "first").checkpoints).glob("update_000020/weights*"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ValueError, match=r"weights-00000\.safetensors is not what the manifest says"):
        take_over(config, folder)
    assert not folder.start.exists()


def test_evaluations_compare_where_only_training_differs() -> None:
    alike = {"training.optimizer.lr": 1e-5, "rollout.num_steps": 3, "evaluation.interval": 5}
    assert evaluated_alike(BASE, apply(BASE, alike))
    for changes in ({"evaluation.seed": 5}, {"model.resolution": 128}, {"algorithm.control_words": "vivid"}):
        assert not evaluated_alike(BASE, apply(BASE, changes))


def test_checkpoint_is_copied_to_and_from_an_object_store(tmp_path: Path) -> None:
    source_run(tmp_path)
    local, remote = Storage(RunFolder(tmp_path / "first").checkpoints), Storage("memory://bucket/second")
    copy_checkpoint(local, remote, 20)
    back = Storage(tmp_path / "back")
    copy_checkpoint(remote, back, 20)
    assert read_checkpoint(back, 20).optimizer["layer/exp_avg"].tolist() == [20.0] * 3

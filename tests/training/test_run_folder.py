import json
from pathlib import Path

import pytest
import torch

from srpo_ray.config import load_run
from srpo_ray.evaluation.gallery import before_after, save_png
from srpo_ray.training.health import idle_warning, warnings
from srpo_ray.training.run_folder import (
    RunFolder,
    adopt_untrained,
    append_row,
    load_pictures,
    read_rows,
    save_pictures,
)
from srpo_ray.training.watch import planned_looks

JUDGED = {key: {"file": {"part": "hash"}} for key in ("model.path", "evaluation.prompts", "rewards.models.0.path")}


def run(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.make()
    return folder


def test_untrained_evaluation_is_adopted_only_once_it_is_whole(tmp_path: Path) -> None:
    source, target = run(tmp_path / "source"), run(tmp_path / "target")
    for folder, prompts in ((source, "hash of some"), (target, "hash of others")):
        folder.inputs.write_text(json.dumps({**JUDGED, "data.prompts": {"prompts.txt": {"prompts": prompts}}}))
    assert not adopt_untrained(source, target)
    for step, value in ((0, 0.5), (10, 0.6)):
        append_row(source.scores, {"step": step, "num_prompts": 1, "scores": {"panel/held_out": [value]}})
        append_row(source.evaluations, {"step": step, "panel/held_out": value})
    pictures = {3: torch.rand(3, 8, 8), 0: torch.rand(3, 8, 8)}
    save_pictures(source.base_pictures, pictures)
    assert not adopt_untrained(source, target)
    assert not target.evaluations.exists()

    image = torch.rand(1, 3, 8, 8)
    save_png(before_after(image, image, ["a"]), source.gallery)
    assert adopt_untrained(source, target)
    assert read_rows(target.evaluations) == [{"step": 0, "panel/held_out": 0.5}]
    assert read_rows(target.scores) == read_rows(source.scores)[:1]
    adopted = load_pictures(target.base_pictures)
    assert list(adopted) == [0, 3]
    assert all(torch.equal(adopted[index], pictures[index]) for index in pictures)


@pytest.mark.parametrize("key", JUDGED)
def test_untrained_evaluation_of_another_model_reward_or_prompts_is_not_adopted(tmp_path: Path, key: str) -> None:
    source, target = run(tmp_path / "source"), run(tmp_path / "target")
    append_row(source.scores, {"step": 0, "num_prompts": 1, "scores": {"panel/held_out": [0.5]}})
    append_row(source.evaluations, {"step": 0, "panel/held_out": 0.5})
    save_pictures(source.base_pictures, {0: torch.rand(3, 8, 8)})
    image = torch.rand(1, 3, 8, 8)
    save_png(before_after(image, image, ["a"]), source.gallery)
    target.inputs.write_text(json.dumps(JUDGED))
    assert not adopt_untrained(source, target), "the source has no record"
    source.inputs.write_text(json.dumps({**JUDGED, key: {"file": {"part": "another hash"}}}))
    assert not adopt_untrained(source, target)
    assert not target.evaluations.exists()
    source.inputs.write_text(json.dumps(JUDGED))
    assert adopt_untrained(source, target)


def test_a_row_that_was_cut_off_is_not_read(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    append_row(folder.steps, {"step": 1})
    with folder.steps.open("a") as file:
        file.write('{"step": 2, "loss')
    assert read_rows(folder.steps) == [{"step": 1}]


def test_updates_without_gradient_are_warned_of(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    assert idle_warning(folder) is None
    append_row(folder.steps, {"step": 1, "step/gradient_norm": 0.3})
    assert idle_warning(folder) is None
    append_row(folder.steps, {"step": 2, "step/gradient_norm": 0.0})
    warning = idle_warning(folder)
    assert warning is not None
    assert "1 of 2 updates" in warning
    assert "algorithm.hinge" in warning


@pytest.mark.parametrize(("updates", "interval"), [(40, 15), (40, 10), (1, 1), (3, 40)])
def test_planned_evaluations_are_those_at_each_interval_and_at_the_end(updates: int, interval: int) -> None:
    changes = [f"training.num_updates={updates}", f"evaluation.interval={interval}"]
    config = load_run(["configs/small_world.yaml"], changes)
    assert planned_looks(config) == sum(made % interval == 0 or made == updates for made in range(1, updates + 1))


def test_alarms_and_the_best_step_are_told_at_the_end(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    assert warnings(folder) == []
    for step in (10, 20):
        append_row(folder.alarms, {"step": step, "kind": "style", "metric": "image/contrast", "message": "it moved"})
    assert warnings(folder) == ["run: update 10, again at 20: it moved"]
    folder.finished.write_text('{"updates": 20, "stopped_by": "alarm", "best_step": 5}')
    assert warnings(folder)[1].startswith("run: stopped by the alarm; best was the checkpoint of update 5")
    folder.finished.write_text('{"updates": 20, "stopped_by": "alarm", "best_step": 0}')
    assert "best was the untrained model" in warnings(folder)[1]

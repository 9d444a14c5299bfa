from pathlib import Path

import pytest

from srpo_ray.config import load_run, to_yaml
from srpo_ray.runs.folder import (
    RunFolder,
    append_row,
    read_rows,
)
from srpo_ray.runs.warnings import displacement_warning, idle_warning, warnings
from srpo_ray.training.early_stop import planned_looks

EVALUATED = {key: {"file": {"part": "hash"}} for key in ("model.path", "evaluation.prompts", "rewards.models.0.path")}


def run(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.make()
    return folder


def test_a_row_that_was_cut_off_is_not_read(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    append_row(folder.updates, {"update": 1})
    with folder.updates.open("a") as file:
        file.write('{"update": 2, "loss')
    assert read_rows(folder.updates) == [{"update": 1}]


ONLINE = ("algorithm.type=preference", "algorithm.source=online")
HINGE = ("algorithm.type=preference", "algorithm.loss=hinge", "data.pairs=small_world:pairs")


@pytest.mark.parametrize(
    ("overrides", "without_pair", "cause"),
    [
        (["algorithm.type=srpo"], None, "; with a hinge this means that every reward was above algorithm.hinge: raise"),
        (["algorithm.type=dance_grpo"], None, ""),
        ([*HINGE], None, "; with the loss hinge every margin was above algorithm.margin: raise it"),
        ([*HINGE[:1], HINGE[2]], None, ""),
        ([*ONLINE], 1.0, "; in 1 of them no two images of a prompt made a pair: lower algorithm.min_gap, or"),
        ([*ONLINE, "algorithm.loss=hinge"], 1.0, "; in 1 of them no two images of a prompt made a pair: lower"),
        ([*ONLINE, "algorithm.loss=hinge"], 0.5, "; with the loss hinge every margin was above algorithm.margin"),
    ],
)
def test_updates_without_gradient_are_explained_by_the_settings_of_the_algorithm(
    tmp_path: Path, overrides: list[str], without_pair: float | None, cause: str
) -> None:
    folder = run(tmp_path / "run")
    folder.config.write_text(to_yaml(load_run(["configs/small_world.yaml"], overrides)))
    assert idle_warning(folder) is None
    append_row(folder.updates, {"update": 1, "update/gradient_norm": 0.3})
    assert idle_warning(folder) is None
    own = {} if without_pair is None else {"preference/without_pair": without_pair}
    append_row(folder.updates, {"update": 2, "update/gradient_norm": 0.0, **own})
    warning = idle_warning(folder)
    assert warning is not None
    message = "run: the gradient was exactly zero in 1 of 2 updates, so they changed nothing"
    assert warning.startswith(message + cause)
    assert warning.count(";") == (1 if cause else 0)


@pytest.mark.parametrize(
    ("gains", "margins", "warned"),
    [
        ([0.0, 0.0, -0.1, -0.2], [0.0, 0.1, 0.2, 0.4], True),
        ([0.0, 0.1, 0.1, 0.2], [0.0, 0.1, 0.2, 0.4], False),
        ([0.0, 0.0, -0.1, -0.2], [0.0, 0.0, -0.1, -0.1], False),
        ([-0.1, -0.1], [0.0, 0.4], False),
    ],
)
def test_preferred_images_that_fall_behind_the_reference_are_warned_of(
    tmp_path: Path, gains: list[float], margins: list[float], warned: bool
) -> None:
    folder = run(tmp_path / "run")
    for update, (gain, margin) in enumerate(zip(gains, margins, strict=True), start=1):
        append_row(
            folder.updates,
            {"update": update, "update/gradient_norm": 1.0, "gain/preferred": gain, "preference/margin": margin},
        )
    found = warnings(folder)
    assert found == ([displacement_warning(folder)] if warned else [])
    if warned:
        assert "gain/preferred is -0.2, and preference/margin went from 0 to 0.4" in found[0]


@pytest.mark.parametrize(("updates", "interval"), [(40, 15), (40, 10), (1, 1), (3, 40)])
def test_planned_evaluations_are_those_at_each_interval_and_at_the_end(updates: int, interval: int) -> None:
    changes = [f"training.num_updates={updates}", f"evaluation.interval={interval}"]
    config = load_run(["configs/small_world.yaml"], changes)
    assert planned_looks(config) == sum(made % interval == 0 or made == updates for made in range(1, updates + 1))


def test_hacking_signs_and_the_best_update_are_reported_at_the_end(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    assert warnings(folder) == []
    for step in (10, 20):
        append_row(folder.hacking, {"update": step, "kind": "style", "metric": "image/contrast", "message": "it moved"})
    assert warnings(folder) == ["run: update 10, again at 20: it moved"]
    folder.finished.write_text('{"updates": 20, "stopped_by": "reward_hacking", "best_update": 5}')
    assert warnings(folder)[1].startswith(
        "run: stopped by reward-hacking detection; best was the checkpoint of update 5"
    )
    folder.finished.write_text('{"updates": 20, "stopped_by": "reward_hacking", "best_update": 0}')
    assert "best was the base model" in warnings(folder)[1]

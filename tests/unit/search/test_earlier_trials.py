"""Warm start: which trials of an earlier experiment count as observed, are tried first, or are of no use."""

import json
from pathlib import Path
from typing import Any

import pytest

from srpo_ray.config import ExperimentConfig, RunConfig, apply, load_run, to_yaml
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.runs.folder import RunFolder, append_row
from srpo_ray.search.earlier_trials import earlier_trials_of, keep_earlier_trials, read_earlier_trials
from tests.conftest import SMALL_WORLD

HELD_OUT, LR, WORDS = "evaluator/held_out", "training.optimizer.lr", "algorithm.control_words"
TRIAL = {"evaluation.test": None}
PROMPTS = {"data.prompts": {"small_world:train": {"prompts": "3 sha256 a"}}}


@pytest.fixture(scope="module")
def base() -> RunConfig:
    return with_absolute_paths(load_run([SMALL_WORLD]))


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """Folder of an earlier experiment without trials."""
    folder = tmp_path / "earlier"
    (folder / "trials").mkdir(parents=True)
    (folder / "experiment.yaml").touch()
    (folder / "inputs.json").write_text(json.dumps(PROMPTS))
    return folder


def experiment(*folders: Path, space: dict[str, Any] | None = None, **values: Any) -> ExperimentConfig:
    space = space or {LR: {"loguniform": [1e-6, 1e-5]}, WORDS: {"choice": ["detailed", "vivid"]}}
    arm = {"name": "SRPO", "space": space, "set": {"training.batch_size": 4}}
    search = {"searcher": "optuna", "points_from": [str(folder) for folder in folders], "num_samples": 4}
    return ExperimentConfig.model_validate({"base": "x.yaml", "arms": [arm], "search": search, **values})


def add(folder: Path, base: RunConfig, number: int, held_out: float | None, **changes: Any) -> None:
    """Add a trial that agrees with the experiment but for `changes`; None leaves it unfinished."""
    name = f"SRPO_trial_{number}"
    run = RunFolder(folder / "trials" / name)
    run.make()
    settings = {"training.batch_size": 4, "name": name, "run_root": "elsewhere", **TRIAL, **changes}
    run.config.write_text(to_yaml(apply(base, settings)))
    for update, score in ((0, 0.5), (9, held_out or 0.5)):
        append_row(run.evaluations, {"update": update, HELD_OUT: score})
    if held_out is not None:
        run.finished.write_text("{}")


def test_finished_trials_with_the_settings_of_the_search_count_as_observed(base: RunConfig, earlier: Path) -> None:
    """Workers, checkpoints and the name of the folder change no result."""
    add(earlier, base, 1, 0.7, **{LR: 2e-6, WORDS: "vivid"})
    add(earlier, base, 2, 0.6, **{LR: 5e-6, "training.num_workers": 2, "training.checkpoint_interval": 3})
    found = read_earlier_trials(experiment(earlier), base, PROMPTS)["SRPO"]
    assert [(dict(trial.values), list(trial.objectives), trial.state) for trial in found.known] == [
        ({LR: 2e-6, WORDS: "vivid"}, [0.7], "finished"),
        ({LR: 5e-6, WORDS: "detailed"}, [0.6], "finished"),
    ]
    assert not found.first
    assert found.notes == [f"SRPO: earlier trials of {earlier}: 2 observed."]


def test_trials_with_other_settings_are_tried_first_the_best_before_the_others(base: RunConfig, earlier: Path) -> None:
    add(earlier, base, 1, 0.6, **{LR: 2e-6, "training.batch_size": 8})
    add(earlier, base, 2, 0.9, **{LR: 3e-6, "seed": 3, "training.num_updates": 7})
    add(earlier, base, 3, 0.7, **{LR: 4e-6, "training.batch_size": 8})
    found = read_earlier_trials(experiment(earlier), base, PROMPTS)["SRPO"]
    assert not found.known
    # At most half of the four trials of the search.
    assert [values[LR] for values in found.first] == [3e-6, 4e-6]
    assert "2 tried first, other training.batch_size (SRPO_trial_1, SRPO_trial_3)" in found.notes[0]
    assert "1 tried first, other seed, training.num_updates (SRPO_trial_2)" in found.notes[0]
    assert "1 of the settings to try first are left out" in found.notes[1]
    lower = read_earlier_trials(experiment(earlier, mode="min"), base, PROMPTS)["SRPO"]
    assert [values[LR] for values in lower.first] == [2e-6, 4e-6]


def test_trials_on_prompts_whose_content_has_changed_are_tried_first(base: RunConfig, earlier: Path) -> None:
    add(earlier, base, 1, 0.6, **{LR: 2e-6})
    now = {"data.prompts": {"small_world:train": {"prompts": "3 sha256 b"}}}
    found = read_earlier_trials(experiment(earlier), base, now)["SRPO"]
    assert (found.known, [values[LR] for values in found.first]) == ([], [2e-6])
    assert "other content of data.prompts" in found.notes[0]


def test_trial_without_the_objective_is_tried_first(base: RunConfig, earlier: Path) -> None:
    add(earlier, base, 1, 0.6, **{LR: 2e-6})
    found = read_earlier_trials(experiment(earlier, objective="truth/detail"), base, PROMPTS)["SRPO"]
    assert [values[LR] for values in found.first] == [2e-6]
    assert "1 tried first, no truth/detail (SRPO_trial_1)" in found.notes[0]


def test_experiment_without_a_usable_trial_is_refused_with_the_reason_of_each(base: RunConfig, earlier: Path) -> None:
    add(earlier, base, 1, 0.6, **{LR: 2e-4})
    add(earlier, base, 2, None, **{LR: 2e-6})
    add(earlier, base, 3, 0.7, **{"algorithm.type": "dance_grpo"})
    space = {LR: {"loguniform": [1e-6, 1e-5]}, "algorithm.interpolation_strength": {"uniform": [0.5, 0.95]}}
    with pytest.raises(ValueError, match="expected an earlier trial whose values lie in the space") as error:
        read_earlier_trials(experiment(earlier, space=space), base, PROMPTS)
    for reason in (
        "0 observed",
        r"training.optimizer.lr 0.0002 is outside the space (SRPO_trial_1)",
        "not finished (SRPO_trial_2)",
        "algorithm.interpolation_strength is missing (SRPO_trial_3)",
    ):
        assert reason in str(error.value)


def test_values_whose_condition_does_not_hold_are_not_needed(base: RunConfig, earlier: Path) -> None:
    space = {
        "algorithm.query": {"choice": ["relative", "guided"]},
        "algorithm.hinge": {"uniform": [5, 6], "when": {"algorithm.query": "guided"}},
    }
    add(earlier, base, 1, 0.6)
    found = read_earlier_trials(experiment(earlier, space=space), base, PROMPTS)["SRPO"]
    assert [dict(trial.values) for trial in found.known] == [{"algorithm.query": "relative"}]


def test_folder_that_is_no_earlier_experiment_is_refused(base: RunConfig, earlier: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"points_from: expected the folder of an earlier experiment, .* got .*missing"
    ):
        read_earlier_trials(experiment(tmp_path / "missing"), base, PROMPTS)
    own = base.model_copy(update={"run_root": str(earlier.parent)})
    with pytest.raises(ValueError, match="expected another experiment, got the folder of this one"):
        read_earlier_trials(experiment(earlier, name="earlier"), own, PROMPTS)


def test_resumed_search_starts_from_the_same_trials(base: RunConfig, earlier: Path, tmp_path: Path) -> None:
    add(earlier, base, 1, 0.7, **{LR: 2e-6})
    add(earlier, base, 2, 0.6, **{LR: 3e-6, "seed": 5})
    found = read_earlier_trials(experiment(earlier), base, PROMPTS)
    keep_earlier_trials(tmp_path / "mine", found)
    assert earlier_trials_of(tmp_path / "mine", "SRPO") == found["SRPO"]
    assert not earlier_trials_of(tmp_path / "mine", "another arm").used

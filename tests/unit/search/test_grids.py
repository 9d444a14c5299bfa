"""Grids that widen themselves: values that are trained after the first round, and why no more are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from srpo_ray.config import ExperimentConfig, apply, load_run
from srpo_ray.evaluation.results import TrialRow
from srpo_ray.live.state import Progress, read_progress, write_progress
from srpo_ray.search import arm_trials as trials_module
from srpo_ray.search.arms import search_arms, train_arms
from srpo_ray.search.budget_records import budget_notes
from srpo_ray.search.phase import PlannedRun
from srpo_ray.search.spending import BudgetTerms
from srpo_ray.search.trial import Experiment
from tests.conftest import SMALL_WORLD

LR, DRAWS, HELD_OUT, DRIFT = (
    "training.optimizer.lr",
    "evaluation.samples_per_prompt",
    "evaluator/held_out",
    "image/drift",
)
Score = Callable[[Mapping[str, Any]], float]


@dataclass
class Trained:
    """Training of planned runs that only computes a score of their values."""

    score: Score
    drift: float = 0.0
    """Change of the drift per unit of the learning rate."""
    failing: tuple[float, ...] = ()
    """Learning rates whose runs fail."""
    stopped: tuple[float, ...] = ()
    """Learning rates whose runs a budget stops."""
    room: int = 99
    """Runs that a budget has room for."""
    phases: list[tuple[str, list[str]]] = field(default_factory=list[tuple[str, list[str]]])

    def __call__(
        self, experiment: Experiment, phase: str, title: str, runs: Sequence[PlannedRun], *_: object
    ) -> list[TrialRow]:
        left = self.room - sum(len(names) for _, names in self.phases)
        self.phases.append((phase, [run.label for run in runs]))
        return [self._row(run) for run in runs[: max(0, left)]]

    def _row(self, run: PlannedRun) -> TrialRow:
        history = [
            {"update": 0, HELD_OUT: 0.0, DRIFT: 0.0},
            {"update": 4, HELD_OUT: self.score(run.changes), DRIFT: self.drift * run.changes.get(LR, 0)},
        ]
        status = "failed: non-finite loss" if run.changes.get(LR) in self.failing else "finished"
        status = "stopped early" if run.changes.get(LR) in self.stopped else status
        return TrialRow(run.name, run.kind, run.label, run.changes, history, status, 1.0, run.seed)


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trained]:
    def start(score: Score, **values: Any) -> Trained:
        trained = Trained(score, **values)
        monkeypatch.setattr(trials_module, "run_planned", trained)
        return trained

    return start


def experiment_in(folder: Path) -> Experiment:
    return Experiment(load_run([SMALL_WORLD], ["seed=5", "evaluation.test=null"]), str(folder), {}, "", "", None)


def config_of(*arms: Mapping[str, Any], **values: Any) -> ExperimentConfig:
    search = {"set": {"evaluation.seed": 77}}
    return ExperimentConfig.model_validate({"base": "b.yaml", "arms": arms, "search": search, **values})


def arm(name: str = "SRPO", widen: int = 3, path: str = LR, values: Sequence[float] = (1e-6, 2e-6)) -> dict[str, Any]:
    return {"name": name, "grid": {path: list(values)}, "widen": widen}


def near(best: float) -> Score:
    """Score that is highest at a learning rate."""
    return lambda changes: 1 - abs(changes[LR] - best) * 1e4


def test_values_beyond_the_best_end_are_trained_until_the_best_is_inside(
    tmp_path: Path, train: Callable[..., Trained]
) -> None:
    trained = train(near(8e-6))
    (search,), notes = search_arms(experiment_in(tmp_path), config_of(arm()))
    assert trained.phases == [
        ("grids", ["lr 1e-6", "lr 2e-6"]),
        ("grids_widened_1", ["lr 4e-6"]),
        ("grids_widened_2", ["lr 8e-6"]),
        ("grids_widened_3", ["lr 1.6e-5"]),
    ]
    assert [row.name for row in search.rows] == [f"SRPO_trial_{index}" for index in range(5)]
    (value,) = search.searched
    assert (search.chosen, value.chosen, value.at_the_end) == ("SRPO_trial_3", 8e-6, False)
    assert (list(value.added), search.num_added, notes) == ([4e-6, 8e-6, 1.6e-5], 3, [])


def test_grid_is_widened_at_its_lower_end_and_in_the_direction_of_the_objective(
    tmp_path: Path, train: Callable[..., Trained]
) -> None:
    trained = train(lambda changes: changes[LR] * 1e4)
    (search,), _ = search_arms(experiment_in(tmp_path), config_of(arm(widen=2), mode="min"))
    assert [labels for _, labels in trained.phases[1:]] == [["lr 5e-7"], ["lr 2.5e-7"]]
    assert search.searched[0].at_the_end


def test_no_value_is_added_without_widen_or_with_the_best_inside(tmp_path: Path, train: Callable[..., Trained]) -> None:
    trained = train(near(2e-6))
    arms = arm("inside", values=[1e-6, 2e-6, 3e-6]), arm("narrow", widen=0)
    inside, narrow = search_arms(experiment_in(tmp_path), config_of(*arms))[0]
    assert [phase for phase, _ in trained.phases] == ["grids"]
    assert [each.searched[0].at_the_end for each in (inside, narrow)] == [False, True]


def test_rounds_train_the_next_values_of_all_arms_together(tmp_path: Path, train: Callable[..., Trained]) -> None:
    trained = train(near(4e-6))
    arms = arm("low"), arm("inside", values=[1e-6, 4e-6, 8e-6]), arm("high", values=[8e-6, 1.6e-5])
    write_progress(tmp_path, Progress.start("x", "experiment", config_of(*arms).num_runs, []))
    low, inside, high = search_arms(experiment_in(tmp_path), config_of(*arms))[0]
    assert trained.phases[1:] == [("grids_widened_1", ["lr 4e-6"] * 2), ("grids_widened_2", ["lr 8e-6", "lr 2e-6"])]
    assert [each.num_added for each in (low, inside, high)] == [2, 0, 2]
    progress = read_progress(tmp_path)
    # 7 trials of the grids, 4 added ones, 3 seeds of each arm.
    assert progress is not None
    assert progress.total == 7 + 4 + 9


def test_failed_trial_at_the_end_stops_the_widening(tmp_path: Path, train: Callable[..., Trained]) -> None:
    trained = train(near(9e-6), failing=(4e-6,))
    (search,), notes = search_arms(experiment_in(tmp_path), config_of(arm()))
    assert [labels for _, labels in trained.phases[1:]] == [["lr 4e-6"]]
    (value,) = search.searched
    assert (value.chosen, value.at_the_end, notes) == (2e-6, False, [])


def test_score_that_is_not_finite_counts_as_worse_than_any_other(tmp_path: Path, train: Callable[..., Trained]) -> None:
    trained = train(lambda changes: float("inf") if changes[LR] > 3e-6 else changes[LR])
    (search,), _ = search_arms(experiment_in(tmp_path), config_of(arm()))
    assert (len(trained.phases), search.chosen) == (2, "SRPO_trial_1")


def test_limits_of_the_experiment_choose_the_value_that_is_widened(
    tmp_path: Path, train: Callable[..., Trained]
) -> None:
    # Without the limit, the best is at the upper end.
    trained = train(lambda changes: changes[LR], drift=-1e6)
    search_arms(experiment_in(tmp_path), config_of(arm(widen=1), max_fall={DRIFT: 1.5}))
    assert trained.phases[1:] == [("grids_widened_1", ["lr 5e-7"])]


def test_value_that_the_config_refuses_ends_the_widening_with_a_note(
    tmp_path: Path, train: Callable[..., Trained]
) -> None:
    trained = train(lambda changes: -changes[DRAWS])
    (search,), notes = search_arms(experiment_in(tmp_path), config_of(arm(path=DRAWS, values=[1, 2])))
    assert (len(trained.phases), search.num_added, search.searched[0].is_limit) == (1, 0, True)
    (note,) = notes
    assert note.startswith(f"SRPO: the grid was not widened beyond its best value: {DRAWS}=0: ")
    assert "expected" in note


def test_value_that_an_ablation_of_the_arm_refuses_is_not_trained(
    tmp_path: Path, train: Callable[..., Trained]
) -> None:
    batch, workers = "training.batch_size", "training.num_workers"
    trained = train(lambda changes: -changes[batch])
    ablation = {"name": "four workers", "set": {workers: 4}}
    config = config_of(arm(path=batch, values=[4, 8]), ablations=[ablation])
    _, notes = search_arms(experiment_in(tmp_path), config)
    assert len(trained.phases) == 1
    assert notes[0].startswith(f"SRPO: the grid was not widened beyond its best value: {batch}=2: ")


def test_value_that_needs_another_reward_pool_is_not_trained(tmp_path: Path, train: Callable[..., Trained]) -> None:
    path = "rewards.pool.max_ongoing_requests"
    trained = train(lambda changes: changes[path])
    (_, notes) = search_arms(experiment_in(tmp_path), config_of(arm(path=path, values=[2, 4])))
    assert len(trained.phases) == 1
    assert "expected a key that leaves reward models and reward pool as they are" in notes[0]


def test_resumed_experiment_plans_the_same_runs(tmp_path: Path, train: Callable[..., Trained]) -> None:
    arms = arm("low"), arm("high", values=[8e-6, 1.6e-5])
    once = train(near(4e-6))
    search_arms(experiment_in(tmp_path), config_of(*arms))
    again = train(near(4e-6))
    search_arms(experiment_in(tmp_path), config_of(*arms))
    assert again.phases == once.phases


@pytest.mark.parametrize(
    ("room", "added", "left"), [(1, [], "1 of 2"), (2, [], "1 of 3"), (3, [4e-6], "1 of 4"), (9, [4e-6, 8e-6], "")]
)
def test_budget_without_room_for_a_run_ends_the_widening(
    room: int, added: list[float], left: str, tmp_path: Path, train: Callable[..., Trained]
) -> None:
    train(near(9e-6), room=room)
    config = config_of(arm(widen=2), budget={"hours": 1}, seeds=[])
    experiment = replace(experiment_in(tmp_path), budget=BudgetTerms({"hours": 1.0}, None, 0.0, 2))
    (search,), _ = search_arms(experiment, config)
    assert list(search.searched[0].added) == added
    notes = [f"The budget had no room for {left} trials."] if left else []
    assert budget_notes(config, [search], []) == notes


def test_grid_whose_trial_was_stopped_by_the_budget_is_not_widened(
    tmp_path: Path, train: Callable[..., Trained]
) -> None:
    trained = train(near(9e-6), stopped=(2e-6,))
    search_arms(experiment_in(tmp_path), config_of(arm()))
    assert [phase for phase, _ in trained.phases] == ["grids"]


def test_seeds_are_trained_with_an_added_value(tmp_path: Path, train: Callable[..., Trained]) -> None:
    trained = train(near(4e-6))
    config = config_of(arm())
    experiment = experiment_in(tmp_path)
    searches, _ = search_arms(experiment, config)
    assert {row.params[LR] for each in train_arms(experiment, config, searches) for row in each.rows} == {4e-6}
    assert apply(experiment.base, {LR: 4e-6}).training.optimizer.lr == 4e-6
    assert trained.phases[-1][0] == "arms"

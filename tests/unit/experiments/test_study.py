"""The study's experiment files and the arithmetic of its tables."""

from pathlib import Path

import numpy as np
import pytest

from srpo_ray.config import ExperimentConfig, load_experiment
from srpo_ray.evaluation.crossed import Estimate
from tests.conftest import ROOT

CONFIGS = ROOT / "configs" / "experiments"
LR = "training.optimizer.lr"


def experiment(path: Path) -> ExperimentConfig:
    return load_experiment(path)[0]


@pytest.mark.parametrize("name", ["paper_table", "bias", "past_the_turn"])
def test_quick_study_trains_arms_of_the_study_at_rates_of_its_grids(name: str) -> None:
    full, quick = experiment(CONFIGS / f"{name}.yaml"), experiment(CONFIGS / "quick" / f"{name}.yaml")
    for arm in quick.arms:
        own, same = quick.changes(arm), full.changes(full.arm(arm.name))
        grid = full.origin(full.arm(arm.name)).grid.get(LR, [same.get(LR)])
        assert own.pop(LR) in grid
        assert own == {path: value for path, value in same.items() if path != LR}
    assert all(ablation in full.ablations for ablation in quick.ablations)
    assert quick.max_fall == full.max_fall


def test_every_search_of_the_study_has_as_many_trials() -> None:
    table = experiment(CONFIGS / "paper_table.yaml")
    assert {len(arm.grid[LR]) for arm in table.arms if arm.grid} == {5}


def test_a_stop_is_chosen_on_the_other_half_of_the_prompts(script) -> None:
    """Even prompts choose row 1 for the odd ones, odd prompts row 2 for the even ones; gains are those over row 0."""
    chooser = np.array([[0.0, 0, 0, 0], [5, 1, 5, 1], [1, 5, 1, 5]])
    judged = np.array([[1.0, 1, 1, 1], [2, 20, 2, 20], [3, 30, 3, 30]])
    assert script("study_results").cross_fitted_gains(chooser, judged).tolist() == [2, 19, 2, 19]


def test_a_run_that_only_falls_gains_nothing_at_its_best_stop(script) -> None:
    falling = np.array([[1.0, 2, 3], [0, 1, 2], [-1, 0, 1]])
    assert script("study_results").cross_fitted_gains(falling, falling).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("mean", "half_width", "sign"), [(0.2, 0.1, "+"), (-0.2, 0.1, "-"), (0.1, 0.2, "0"), (0.1, None, "")]
)
def test_a_difference_has_a_sign_if_its_interval_excludes_zero(
    script, mean: float, half_width: float | None, sign: str
) -> None:
    script("study_results")
    estimate = Estimate(mean, half_width, None, None, 1, 48)
    assert script("study_claims").Test("bias", "a question", estimate).sign == sign

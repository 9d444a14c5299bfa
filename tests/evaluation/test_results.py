import math
from dataclasses import replace

import pytest

from srpo_ray.evaluation.results import (
    SweepReport,
    TrialRow,
    flagged,
    metric_names,
    ranking,
    shared_step,
    varied_params,
)

OBJECTIVE, REWARD = "evaluator/held_out", "reward/preference"


def names(sweep: SweepReport) -> list[tuple[int | None, str]]:
    return [(rank, row.name) for rank, row in ranking(sweep)]


def test_ranks_count_trials_and_others_stand_by_value_with_stopped_trials_after_ended_ones(sweep: SweepReport):
    assert names(sweep) == [
        (None, "best_seed_2"),
        (1, "t00"),
        (None, "best_seed_1"),
        (None, "late_timesteps"),
        (2, "t04"),
        (3, "t01"),
        (None, "relative_off"),
        (4, "t03"),
        (None, "base"),
        (5, "t02"),
        (6, "t05"),
        (None, "t06"),
    ]


def test_a_smaller_objective_can_be_the_better_one(sweep: SweepReport):
    ranked = [name for rank, name in names(replace(sweep, mode="min")) if rank is not None]
    assert ranked == ["t02", "t03", "t01", "t04", "t00", "t05"]


def stopped_after(sweep: SweepReport, values: dict[str, list[float]]) -> SweepReport:
    """Trials whose objective after update 0, 10, 20, ... is given; those with fewer values were stopped early."""
    longest = max(len(scores) for scores in values.values())
    rows = [
        replace(
            sweep.rows[1],
            name=name,
            history=[{"update": 10 * index, OBJECTIVE: score} for index, score in enumerate(scores)],
            status="finished" if len(scores) == longest else "stopped early",
        )
        for name, scores in values.items()
    ]
    return replace(sweep, rows=rows)


def test_stopped_trials_are_ranked_by_the_last_update_that_all_trials_share(sweep: SweepReport):
    """Both learn at one speed: what was stopped at update 20 has a higher last value than the better one at 10."""
    found = stopped_after(sweep, {"worse": [0, 0.2, 0.4], "better": [0, 0.3], "ended": [0, 0.35, 0.3, 0.38]})
    assert shared_step(found) == 10
    assert [name for _, name in names(found)] == ["ended", "better", "worse"]


def test_trials_that_share_no_evaluation_after_training_have_no_shared_step(sweep: SweepReport):
    assert shared_step(stopped_after(sweep, {"one": [0.1], "other": [0.1, 0.2]})) is None
    assert shared_step(replace(sweep, rows=[])) is None
    assert shared_step(stopped_after(sweep, {"one": [0.1, math.nan, 0.2], "other": [0.1, 0.3, 0.4]})) == 20


def test_a_value_that_is_missing_or_not_finite_is_none(sweep: SweepReport):
    row = sweep.rows[1]
    assert row.value(OBJECTIVE) == pytest.approx(0.487)
    assert row.value("no/such") is None
    assert (
        replace(row, history=[{"update": 0, OBJECTIVE: 0.4}, {"update": 15, OBJECTIVE: math.nan}]).value(OBJECTIVE)
        is None
    )
    assert replace(row, history=[]).value(OBJECTIVE) is None


def test_the_base_model_is_the_base_row_or_else_step_zero(sweep: SweepReport):
    assert sweep.baseline(OBJECTIVE) == pytest.approx(0.412)
    without = replace(sweep, rows=[row for row in sweep.rows if row.kind != "base"])
    assert without.baseline(OBJECTIVE) == pytest.approx(0.412)
    late = [replace(row, history=row.history[1:]) for row in without.rows]
    assert replace(without, rows=late).baseline(OBJECTIVE) is None


def test_runs_with_signs_of_hacking_come_worst_first_and_failed_ones_not_at_all(sweep: SweepReport):
    assert [row.name for row in flagged(sweep)] == ["t02"]
    every = replace(sweep, rows=[replace(row, signs=sweep.rows[3].signs) for row in sweep.rows[1:8]])
    assert [row.name for row in flagged(every)] == ["t02", "t05", "t03", "t01", "t04", "t00"]


def test_an_unknown_best_is_the_first_in_rank(sweep: SweepReport):
    best = replace(sweep, best="gone").best_row
    assert best is not None
    assert best.name == "t00"
    assert replace(sweep, rows=[], best="gone").best_row is None


def test_only_parameters_that_differ_between_trials_vary(sweep: SweepReport):
    assert varied_params(sweep) == [
        "algorithm.control_words",
        "algorithm.timestep_window",
        "algorithm.interpolation_strength",
        "training.optimizer.lr",
    ]
    alike = [replace(sweep.rows[1], params={"w": [1, 2]}), replace(sweep.rows[2], params={"w": (1, 2)})]
    assert varied_params(replace(sweep, rows=alike)) == []


def test_metrics_start_with_objective_and_reward(sweep: SweepReport):
    assert metric_names(sweep)[:2] == [OBJECTIVE, REWARD]
    assert "update" not in metric_names(sweep)
    other = TrialRow("x", "trial", "", {}, [{"update": 0, "evaluator/clip": 1.0}], "finished", 1.0, 0)
    assert metric_names(replace(sweep, rows=[other])) == ["evaluator/clip"]

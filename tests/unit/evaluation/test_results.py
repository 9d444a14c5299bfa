import math
from dataclasses import replace

import pytest

from srpo_ray.evaluation.ranking import flagged, metric_names, ranking, shared_step, varied_params
from srpo_ray.evaluation.results import Arm, Results, Search, TrialRow
from tests.unit.evaluation.conftest import with_rows

OBJECTIVE, REWARD = "evaluator/held_out", "reward/preference"


def names(sweep: Results) -> list[tuple[int | None, str]]:
    return [(rank, row.name) for rank, row in ranking(sweep)]


def test_ranks_count_trials_and_others_stand_by_value_with_stopped_trials_after_ended_ones(sweep: Results):
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


def test_a_smaller_objective_can_be_the_better_one(sweep: Results):
    ranked = [name for rank, name in names(replace(sweep, mode="min")) if rank is not None]
    assert ranked == ["t02", "t03", "t01", "t04", "t00", "t05"]


def stopped_after(sweep: Results, values: dict[str, list[float]]) -> Results:
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
    return with_rows(sweep, rows)


def test_stopped_trials_are_ranked_by_the_last_update_that_all_trials_share(sweep: Results):
    """Both learn at one speed: what was stopped at update 20 has a higher last value than the better one at 10."""
    found = stopped_after(sweep, {"worse": [0, 0.2, 0.4], "better": [0, 0.3], "ended": [0, 0.35, 0.3, 0.38]})
    assert shared_step(found) == 10
    assert [name for _, name in names(found)] == ["ended", "better", "worse"]


def test_stopped_trials_that_share_no_evaluation_are_ranked_by_their_updates_first(sweep: Results):
    """Rungs with other evaluation prompts: no score of one compares with a score of another."""
    none = math.nan
    values = {"first": [0.1, 0.9], "first too": [0.1, 0.8], "second": [0.1, none, 0.3], "ended": [0.1, none, none, 0.2]}
    found = stopped_after(sweep, values)
    assert shared_step(found) is None
    assert [name for _, name in names(found)] == ["ended", "second", "first", "first too"]


def test_trials_that_share_no_evaluation_after_training_have_no_shared_step(sweep: Results):
    assert shared_step(stopped_after(sweep, {"one": [0.1], "other": [0.1, 0.2]})) is None
    assert shared_step(with_rows(sweep, [])) is None
    assert shared_step(stopped_after(sweep, {"one": [0.1, math.nan, 0.2], "other": [0.1, 0.3, 0.4]})) == 20


def test_a_value_that_is_missing_or_not_finite_is_none(sweep: Results):
    row = sweep.rows[1]
    assert row.value(OBJECTIVE) == pytest.approx(0.487)
    assert row.value("no/such") is None
    assert (
        replace(row, history=[{"update": 0, OBJECTIVE: 0.4}, {"update": 15, OBJECTIVE: math.nan}]).value(OBJECTIVE)
        is None
    )
    assert replace(row, history=[]).value(OBJECTIVE) is None


def test_the_base_model_is_the_base_row_or_else_step_zero(sweep: Results):
    assert sweep.baseline(OBJECTIVE) == pytest.approx(0.412)
    without = with_rows(sweep, [row for row in sweep.rows if row.kind != "base"])
    assert without.baseline(OBJECTIVE) == pytest.approx(0.412)
    late = [replace(row, history=row.history[1:]) for row in without.rows]
    assert with_rows(without, late).baseline(OBJECTIVE) is None


def test_change_of_a_run_is_that_since_its_own_evaluation_at_update_zero(sweep: Results):
    """Trials that are evaluated on other noise have another start than the baseline of 0.412."""
    row = replace(sweep.rows[1], history=[{"update": 0, OBJECTIVE: 0.5}, {"update": 60, OBJECTIVE: 0.6}])
    assert sweep.change(row, OBJECTIVE) == pytest.approx(0.1)
    assert sweep.change(replace(row, history=row.history[1:]), OBJECTIVE) == pytest.approx(0.188)


def test_runs_with_signs_of_hacking_come_worst_first_and_failed_ones_not_at_all(sweep: Results):
    assert [row.name for row in flagged(sweep)] == ["t02"]
    every = with_rows(sweep, [replace(row, signs=sweep.rows[3].signs) for row in sweep.rows[1:8]])
    assert [row.name for row in flagged(every)] == ["t02", "t05", "t03", "t01", "t04", "t00"]


def test_best_row_is_the_chosen_trial_of_the_reference_or_else_of_the_first_search(sweep: Results):
    (search,) = sweep.searches
    other = Search("ReFL", [replace(sweep.rows[1], name="other")], "other")
    found = replace(sweep, searches=[other, search]).best_row
    assert found is not None
    assert found.name == "t00"
    found = replace(sweep, searches=[other]).best_row
    assert found is not None
    assert found.name == "other"
    assert replace(sweep, searches=[]).best_row is None


def test_part_of_a_search_has_its_trials_its_arm_and_the_ablations_of_that_arm(sweep: Results):
    trial = replace(sweep.rows[1], name="other")
    other, refl = Search("ReFL", [trial], "other"), Arm("ReFL", "method", {}, [])
    whole = replace(sweep, searches=[*sweep.searches, other], arms=[sweep.arms[0], refl, *sweep.arms[1:]])
    assert whole.of(sweep.searches[0]) == sweep
    assert (whole.of(other).trials, whole.of(other).arms) == ([trial], [refl])
    noisier = replace(trial, history=[{"update": 0, OBJECTIVE: 0.5}, {"update": 60, OBJECTIVE: 0.6}])
    assert whole.of(replace(other, rows=[noisier])).baseline(OBJECTIVE) == 0.5


def test_only_parameters_that_differ_between_trials_vary(sweep: Results):
    assert varied_params(sweep) == [
        "algorithm.control_words",
        "algorithm.timestep_window",
        "algorithm.interpolation_strength",
        "training.optimizer.lr",
    ]
    alike = [replace(sweep.rows[1], params={"w": [1, 2]}), replace(sweep.rows[2], params={"w": (1, 2)})]
    assert varied_params(with_rows(sweep, alike)) == []


def test_metrics_start_with_objective_and_reward(sweep: Results):
    assert metric_names(sweep)[:2] == [OBJECTIVE, REWARD]
    assert "update" not in metric_names(sweep)
    other = TrialRow("x", "trial", "", {}, [{"update": 0, "evaluator/clip": 1.0}], "finished", 1.0, 0)
    assert metric_names(with_rows(sweep, [other])) == ["evaluator/clip"]

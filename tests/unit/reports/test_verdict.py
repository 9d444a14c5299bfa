"""Verdict of an experiment: the number on prompts that chose nothing comes first."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from srpo_ray.evaluation.results import Arm, BudgetUse, Results, TrialRow
from srpo_ray.reports.experiment import experiment_report
from srpo_ray.reports.html import page_text
from srpo_ray.reports.report import Cards
from srpo_ray.reports.verdict import find_verdict
from tests.unit.evaluation.conftest import OBJECTIVE, with_rows


def with_test(row: TrialRow, base: float, tuned: float) -> TrialRow:
    """The run with means on test prompts."""
    return replace(row, test=[{"update": 0, OBJECTIVE: base}, {"update": 60, OBJECTIVE: tuned}])


def with_tests(sweep: Results, tuned: Mapping[str, float]) -> Results:
    """The sweep with tests of the named runs; the base model scores 0.4 on the test prompts."""
    return with_rows(sweep, [with_test(row, 0.4, tuned[row.name]) if row.name in tuned else row for row in sweep.rows])


def test_first_number_of_a_sweep_is_the_change_on_test_prompts_and_its_share_of_the_validation_gain(
    sweep: Results,
) -> None:
    """The chosen trial rose by 0.075 on the prompts that chose it; the repeats by 0.02 and 0.04 on test prompts.

    Student's t with one degree of freedom is 12.706, and 12.706 * 0.01 = 0.1271.
    """
    results = with_tests(sweep, {"best_seed_1": 0.42, "best_seed_2": 0.44})
    report = experiment_report(results)
    assert report.headline == (
        "t00 won: on test prompts, which chose nothing, it moves evaluator/held_out by +0.0300 ± 0.1271 from the base"
        " model with 2 fresh seeds. That is 40% of the chosen trial's change on the validation prompts, +0.0750."
    )
    cards = next(part for part in report.summary if isinstance(part, Cards)).cards
    assert (cards[0].title, cards[0].value) == ("Change on test prompts", "+0.0300 ± 0.1271")
    page = page_text(report)
    assert page.index("Change on test prompts") < page.index("Held-out score")


def test_gain_that_test_prompts_do_not_confirm_is_said_not_to_survive(sweep: Results) -> None:
    report = experiment_report(with_tests(sweep, {"best_seed_1": 0.39, "best_seed_2": 0.40}))
    assert "by -0.0050 ± 0.0635 from the base model" in report.headline
    assert "Nothing of the chosen trial's change on the validation prompts, +0.0750, survives there." in report.headline


def test_sweep_without_a_test_says_that_its_prompts_chose_the_settings_and_what_to_do(sweep: Results) -> None:
    headline = experiment_report(sweep).headline
    assert headline.startswith("t00 won. With 2 fresh seeds it moves evaluator/held_out by +0.0750 ± 0.0762")
    assert "The same prompts chose the settings, so this score is too favourable: set `evaluation.test`" in headline


def test_sweep_whose_budget_left_no_room_for_tests_says_so_instead_of_asking_for_them(sweep: Results) -> None:
    use = BudgetUse("hours", 1.0, 1.0, 0.0)
    headline = experiment_report(
        replace(sweep, arms=[replace(arm, rows=[]) for arm in sweep.arms], budget=[use])
    ).headline
    assert headline.endswith("The budget had no room for the runs after the search, which could be tested on others.")
    assert "evaluation.test" not in headline
    assert "set `evaluation.test`" in experiment_report(replace(sweep, budget=[use])).headline


def comparison(results: Results, methods: Mapping[str, tuple[float, float]]) -> Results:
    """A comparison of methods that nobody searched: validation and test score of one run each."""
    arms = []
    for name, (validation, test) in methods.items():
        history = [
            {"update": 0, OBJECTIVE: 0.5, "cost/calls": 0},
            {"update": 9, OBJECTIVE: validation, "cost/calls": 9},
        ]
        row = TrialRow(f"{name}_seed_1", "repeat", name, {}, history, "finished", 1.0, 1)
        arms.append(Arm(name, "method", {}, [with_test(row, 0.4, test)]))
    base = TrialRow("baseline", "base", "", {}, [{"update": 0, OBJECTIVE: 0.5}], "finished", 0.0, 0)
    return replace(results, baseline_row=base, arms=arms, searches=[], reference=next(iter(methods)))


@pytest.mark.parametrize(("mode", "best", "change"), [("max", "B", 0.05), ("min", "A", -0.1)])
def test_test_prompts_do_not_choose_the_method_that_they_judge(
    sweep: Results, mode: str, best: str, change: float
) -> None:
    methods = {"A": (0.4, 0.3), "B": (0.6, 0.45), "C": (0.55, 0.9)}
    found = find_verdict(replace(comparison(sweep, methods), mode=mode))
    assert found is not None
    assert (found.arm, found.chosen) == (best, False)
    assert found.tested.mean == pytest.approx(change)
    assert found.validation == pytest.approx(change if best == "A" else 0.1)


def test_comparison_in_which_nothing_was_chosen_has_no_warning(sweep: Results) -> None:
    results = comparison(sweep, {"A": (0.6, 0.5)})
    rows = [replace(row, test=()) for row in results.arms[0].rows]
    untested = replace(results, arms=[replace(results.arms[0], rows=rows)])
    assert "same prompts" not in experiment_report(untested).headline
    best = replace(untested, arms=[replace(untested.arms[0], rows=[replace(rows[0], best_update=9)])])
    assert "The same prompts chose the weights" in experiment_report(best).headline
    assert experiment_report(results).headline.startswith("A won: on test prompts")

"""Regret of a choice for people with different tastes."""

from dataclasses import replace

import pytest

from srpo_ray.evaluation.comparison import arm_metrics
from srpo_ray.evaluation.ranking import shown_metrics
from srpo_ray.evaluation.results import Arm, Results, TrialRow
from srpo_ray.reports.experiment import experiment_report
from srpo_ray.reports.regret import PEOPLE, regrets

DETAIL, VIVID = f"{PEOPLE}detail", f"{PEOPLE}vivid"


def arm(name: str, detail: float, vivid: float, seeds: tuple[int, ...] = (1, 2)) -> Arm:
    """Every seed gains as much; the baseline has 3 and 2."""
    rows = [
        TrialRow(
            f"{name}_{seed}",
            "repeat",
            name,
            {},
            [
                {"update": 0, DETAIL: 3.0, VIVID: 2.0, f"{PEOPLE}mean": 2.5, "evaluator/held_out": 0.4},
                {"update": 9, DETAIL: 3 + detail, VIVID: 2 + vivid, f"{PEOPLE}mean": 9.0, "evaluator/held_out": 0.5},
            ],
            "finished",
            1.0,
            seed,
        )
        for seed in seeds
    ]
    return Arm(name, "method", {}, rows)


def compared(report: Results, *arms: Arm) -> Results:
    base = TrialRow("baseline", "base", "", {}, [{"update": 0, DETAIL: 3.0, VIVID: 2.0}], "finished", 0.0, 0)
    return replace(report, baseline_row=base, arms=arms, searches=[], reference=arms[0].name)


def test_regret_is_what_the_best_method_for_each_person_gains_more(report: Results) -> None:
    found = regrets(compared(report, arm("fits", 0.5, -0.2), arm("other", -0.1, 0.3)))
    assert found["fits"].missing == pytest.approx({DETAIL: 0.0, VIVID: 0.5})
    assert found["other"].missing == pytest.approx({DETAIL: 0.6, VIVID: 0.0})
    assert found["fits"].mean == pytest.approx(0.25)
    assert found["other"].largest == pytest.approx(0.6)


def test_doing_nothing_is_best_for_a_person_whom_every_method_harms(report: Results) -> None:
    found = regrets(compared(report, arm("fits", 0.5, -0.2), arm("more", 0.4, -0.4)))
    assert found["fits"].missing == pytest.approx({DETAIL: 0.0, VIVID: 0.2})
    assert found["more"].missing == pytest.approx({DETAIL: 0.1, VIVID: 0.4})


def test_report_shows_gain_and_regret_of_every_method_and_of_the_baseline(report: Results) -> None:
    results = compared(report, arm("fits", 0.5, -0.2), arm("other", -0.1, 0.3))
    section = next(each for each in experiment_report(results).sections if each.title == "Whom a choice serves")
    table = section.parts[1]
    rows = {row.cells["arm"]: row for row in table.rows}  # type: ignore[union-attr]
    assert rows["baseline"].cell(DETAIL).note == "regret 0.5000"
    assert rows["baseline"].cell("mean").value == pytest.approx(0.4)
    assert rows["other"].cell(DETAIL).note == "regret 0.6000"
    assert rows["fits"].cell(VIVID).note == "regret 0.5000"


def test_one_person_or_one_method_has_no_regret(report: Results) -> None:
    assert regrets(compared(report, arm("fits", 0.5, -0.2))) == {}


def test_utilities_of_single_people_are_in_their_table_only(report: Results) -> None:
    results = compared(report, arm("fits", 0.5, -0.2), arm("other", -0.1, 0.3))
    assert f"{PEOPLE}mean" in arm_metrics(results)
    assert DETAIL not in arm_metrics(results)
    assert DETAIL in arm_metrics(replace(results, objective=DETAIL))
    assert [name for name in shown_metrics(results) if name.startswith(PEOPLE)] == [f"{PEOPLE}mean"]

"""Notice of judges that prefer another arm than the objective does."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from srpo_ray.evaluation.results import MEAN_UTILITY, Arm, Results, TrialRow
from srpo_ray.reports.disagreement import disagreement_notice
from srpo_ray.reports.experiment import experiment_report
from srpo_ray.reports.html import page_text
from tests.unit.evaluation.conftest import OBJECTIVE

SECOND = "evaluator/second"


def arm(name: str, scores: Mapping[str, Sequence[float]], calls: float = 9.0) -> Arm:
    """An arm with one run per value; the base model has 0 in every metric."""
    rows = []
    for index in range(len(next(iter(scores.values())))):
        start = {"update": 0, "cost/calls": 0.0, **dict.fromkeys(scores, 0.0)}
        end = {"update": 9, "cost/calls": calls, **{metric: values[index] for metric, values in scores.items()}}
        rows.append(TrialRow(f"{name}_{index}", "repeat", name, {}, [start, end], "finished", 1.0, index))
    return Arm(name, "method", {}, rows)


def compared(results: Results, *arms: Arm) -> Results:
    base = TrialRow("baseline", "base", "", {}, [arms[0].rows[0].history[0]], "finished", 0.0, 0)
    return replace(results, baseline_row=base, arms=arms, searches=[], reference=arms[0].name)


WORDS = arm("words", {OBJECTIVE: [0.40, 0.41, 0.42], MEAN_UTILITY: [-0.1, -0.11, -0.09], SECOND: [0.1, 0.2, 0.3]})
PLAIN = arm("plain", {OBJECTIVE: [0.20, 0.21, 0.22], MEAN_UTILITY: [0.2, 0.19, 0.21], SECOND: [0.3, 0.1, 0.2]})


def test_an_arm_that_the_people_prefer_to_the_winner_is_named_with_its_advantage(sweep: Results) -> None:
    """Paired by seed the utility differs by 0.3 each time, so the interval has no width."""
    results = compared(sweep, WORDS, PLAIN)
    notice = disagreement_notice(results)
    assert notice is not None
    assert f"the choice of words by {OBJECTIVE}: by {MEAN_UTILITY}, plain is better by +0.3000 ±" in notice
    assert SECOND not in notice
    assert "Other judges disagree" in page_text(experiment_report(results))


def test_a_second_held_out_model_is_a_judge_too(sweep: Results) -> None:
    words = arm("words", {OBJECTIVE: [0.40, 0.41, 0.42], SECOND: [0.1, 0.11, 0.1]})
    plain = arm("plain", {OBJECTIVE: [0.20, 0.21, 0.22], SECOND: [0.3, 0.31, 0.32]})
    notice = disagreement_notice(compared(sweep, words, plain))
    assert notice is not None
    assert f"by {SECOND}, plain is better" in notice


@pytest.mark.parametrize(
    "other",
    [
        arm("plain", {OBJECTIVE: [0.2, 0.2, 0.2], MEAN_UTILITY: [-0.9, 0.9, 0.4]}),
        arm("plain", {OBJECTIVE: [0.2, 0.2, 0.2], MEAN_UTILITY: [-0.3, -0.31, -0.29]}),
        arm("plain", {OBJECTIVE: [0.2], MEAN_UTILITY: [0.9]}, calls=40.0),
        arm("plain", {OBJECTIVE: [0.2, 0.2, 0.2]}),
    ],
    ids=["not told apart", "worse for the people too", "trained for longer", "without another judge"],
)
def test_agreement_has_no_notice(sweep: Results, other: Arm) -> None:
    assert disagreement_notice(compared(sweep, WORDS, other)) is None

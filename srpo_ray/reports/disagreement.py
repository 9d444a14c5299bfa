"""Notice where another judge than the objective prefers another arm: the people, or a second held-out model."""

import math

from srpo_ray.evaluation.comparison import EQUAL, arm_metrics, difference, tested_together
from srpo_ray.evaluation.numbers import gain_text
from srpo_ray.evaluation.results import MEAN_UTILITY, Arm, Results
from srpo_ray.reports.verdict import find_verdict


def disagreement_notice(results: Results) -> str | None:
    """Warn where an arm is certainly better than the winner by the people or by another held-out model.

    The winner is the arm that the objective puts first. The arms that cost no more than the reference are tested by all
    judges at once, with Holm's correction.

    Returns:
        None if no other judge prefers another arm, or there is none.
    """
    winner = _winner(results)
    judges = [name for name in arm_metrics(results) if _judges(name) and name != results.objective]
    if winner is None or not judges:
        return None
    others = [arm for arm in results.arms if arm is not winner and (results.spent(arm) or math.inf) <= 1 + EQUAL]
    differences = {
        (judge, arm.name): found
        for judge in judges
        for arm in others
        if (found := difference(arm.ended, winner.ended, judge)) is not None
    }
    better = [
        (judge, arm, gap.estimate)
        for (judge, arm), gap in tested_together(differences).items()
        if gap.significant and gap.estimate.mean > 0
    ]
    if not better:
        return None
    texts = []
    for judge in dict.fromkeys(judge for judge, _, _ in better):
        _, arm, gap = max((each for each in better if each[0] == judge), key=lambda each: each[2].mean)
        texts.append(f"by {judge}, {arm} is better by {gain_text(gap)}")
    return (
        f"Other judges disagree with the choice of {winner.name} by {results.objective}: {'; '.join(texts)}. A single"
        " held-out score does not stand for what people like: look at these metrics before you take the winner."
    )


def _judges(metric: str) -> bool:
    """True for the mean utility of the people who test, and for the plain scores of held-out models."""
    return metric == MEAN_UTILITY or (metric.startswith("evaluator/") and metric.count("/") == 1)


def _winner(results: Results) -> Arm | None:
    """The arm that the verdict is about, else the reference; None if it has no finished run."""
    verdict = find_verdict(results)
    arm = results.arm(results.reference if verdict is None else verdict.arm)
    return arm if arm.ended else None

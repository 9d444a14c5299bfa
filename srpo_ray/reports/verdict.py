"""Verdict of an experiment: the gain on prompts that chose nothing, and how much of the validation gain it is."""

import math
from dataclasses import dataclass
from statistics import fmean

from srpo_ray.evaluation.comparison import EQUAL, gain
from srpo_ray.evaluation.crossed import Estimate, mean_over
from srpo_ray.evaluation.numbers import gain_text, signed
from srpo_ray.evaluation.results import Arm, Results
from srpo_ray.reports.comparison import not_told_apart
from srpo_ray.reports.report import Card


@dataclass(frozen=True)
class Verdict:
    """Gain of the objective over the base model on the test prompts, and on the validation prompts before."""

    arm: str
    tested: Estimate
    """Change on the test prompts over the seeds of the arm and, where they have scores by prompt, over the prompts."""
    validation: float
    """Change on the validation prompts: of the trial that was chosen for it, or the mean of the arm's own runs."""
    chosen: bool
    """True if `validation` is that of a chosen trial."""

    @property
    def survival(self) -> str:
        """Share of the validation gain that the test confirms, in one sentence."""
        whose = "the chosen trial's change" if self.chosen else "the change"
        before = f"{whose} on the validation prompts, {signed(self.validation)}"
        if self.validation == 0 or self.tested.mean / self.validation < 0:
            return f"Nothing of {before}, survives there."
        return f"That is {100 * self.tested.mean / self.validation:.0f}% of {before}."


def with_verdict(results: Results, headline: str) -> str:
    """Headline of an experiment: the gain on test prompts first, or a warning that the prompts chose what they judge.

    Args:
        results: The results.
        headline: Headline from the validation prompts.
    """
    verdict = find_verdict(results)
    if verdict is None:
        return f"{headline}{_caveat(results)}"
    best = results.best_row
    winner = best.name if results.is_sweep and best else verdict.arm
    seeds = f"{verdict.tested.num_seeds} fresh seed{'s' if verdict.tested.num_seeds > 1 else ''}"
    tested = (
        f"{winner} won: on test prompts, which chose nothing, it moves {results.objective} by"
        f" {gain_text(verdict.tested)} from the base model with {seeds}. {verdict.survival}"
    )
    if results.is_sweep:
        return tested
    best = results.arm(verdict.arm)
    others = not_told_apart(results, best, [arm for arm in _equal_arms(results) if arm is not best])
    return f"{tested} Its difference from {', '.join(others)} may be zero." if others else tested


def verdict_cards(results: Results) -> list[Card]:
    """The number to show first: the gain on test prompts; none without a test."""
    verdict = find_verdict(results)
    if verdict is None:
        return []
    note = f"{results.objective}, {verdict.arm}; validation {signed(verdict.validation)}"
    return [Card("Change on test prompts", gain_text(verdict.tested), note)]


def find_verdict(results: Results) -> Verdict | None:
    """Verdict on the arm that the validation prompts put first among those of equal compute; None without a test.

    The test prompts choose nothing, so they do not choose the arm either.
    """
    sign = 1 if results.mode == "max" else -1
    found = [(arm, validation) for arm in _equal_arms(results) if (validation := _validation(results, arm)) is not None]
    if not found:
        return None
    arm, validation = max(found, key=lambda item: sign * item[1])
    tested = _tested_gain(results, arm)
    trial = _chosen_change(results, arm)
    if tested is None:
        return None
    return Verdict(arm.name, tested, validation if trial is None else trial, chosen=trial is not None)


def _tested_gain(results: Results, arm: Arm) -> Estimate | None:
    """Change of the objective on the test prompts over the runs of an arm that were tested."""
    rows = [row for row in arm.ended if row.test_change(results.objective) is not None]
    if rows and all(row.images is not None and row.images.source == "test" for row in rows):
        return gain(results, rows, results.objective)
    changes = [change for row in rows if (change := row.test_change(results.objective)) is not None]
    return mean_over([[change] for change in changes]) if changes else None


def _equal_arms(results: Results) -> list[Arm]:
    """Methods that were trained for about as long as the reference arm, and the reference itself."""
    return [
        arm
        for arm in results.methods
        if arm.name == results.reference or abs((results.spent(arm) or math.inf) - 1) <= EQUAL
    ]


def _validation(results: Results, arm: Arm) -> float | None:
    """Mean change of the objective on the validation prompts over the seeds of an arm."""
    changes = [change for row in arm.ended if (change := results.change(row, results.objective)) is not None]
    return fmean(changes) if changes else None


def _chosen_change(results: Results, arm: Arm) -> float | None:
    """Change of the objective that the chosen trial of the arm's own search had; None if the arm was not searched."""
    searches = [search for search in results.searches if search.arm == arm.name]
    chosen = [row for search in searches for row in search.rows if row.name == search.chosen]
    return results.change(chosen[0], results.objective) if chosen else None


def _caveat(results: Results) -> str:
    """Warning that the prompts which chose settings or weights are those of the scores; empty if they chose nothing."""
    choices = ["settings"] if results.searches else []
    choices += ["weights"] if any(row.best_update is not None for row in results.rows) else []
    if not choices:
        return ""
    caveat = f" The same prompts chose the {' and '.join(choices)}, so this score is too favourable"
    if results.budget and not any(arm.rows for arm in results.arms):
        return f"{caveat}. The budget had no room for the runs after the search, which could be tested on others."
    return (
        f"{caveat}: set `evaluation.test` in the base config, with `seeds` for the arms, to measure it on prompts that"
        " choose nothing."
    )

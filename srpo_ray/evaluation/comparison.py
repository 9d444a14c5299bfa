"""Comparison of arms: gains over the baseline, differences between arms, metrics to show."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from srpo_ray.evaluation.crossed import Estimate, difference_by_seed, mean_over
from srpo_ray.evaluation.ranking import is_of_one_person
from srpo_ray.evaluation.results import CALLS, OWN_WORDS, TRAINED_GAIN, TRAINED_REWARD, Arm, Results, TrialRow
from srpo_ray.evaluation.seeds import holm

Key = TypeVar("Key", bound=Hashable)

EQUAL = 0.05
"""Relative difference in compute up to which two arms count as trained for as long."""
GRADIENT_CALL = 3.0
"""A call with gradient counts as three: one forward, and a backward of about twice its work."""


def level(rows: Sequence[TrialRow], metric: str) -> Estimate | None:
    """Mean of a metric over runs, by prompt where all runs have scores by prompt; None without a value."""
    values = _values(rows, metric, _scored(rows, metric))
    return mean_over([each for _, each in values]) if values else None


def gain(results: Results, rows: Sequence[TrialRow], metric: str) -> Estimate | None:
    """Rise of a metric over the baseline, paired by prompt where all runs have scores by prompt.

    Args:
        results: The results, for the baseline of runs without scores by prompt.
        rows: Runs of one arm with different seeds.
        metric: The metric.
    """
    if _scored(rows, metric):
        images = [row.images for row in rows if row.images is not None]
        return mean_over([np.subtract(each.tuned[metric], each.baseline[metric]) for each in images])
    changes = [change for row in rows if (change := results.change(row, metric)) is not None]
    return mean_over([[change] for change in changes]) if changes else None


def baseline_level(results: Results, metric: str) -> float | None:
    """The baseline's value on the prompts on which the reference arm's values are reported."""
    rows = results.arm(results.reference).ended
    if _scored(rows, metric) and rows[0].images is not None:
        return float(np.mean(rows[0].images.baseline[metric]))
    return results.baseline(metric)


def difference(rows: Sequence[TrialRow], others: Sequence[TrialRow], metric: str) -> Estimate | None:
    """Difference of a metric between two arms, paired by prompt and by shared seeds.

    Args:
        rows: Ended runs of one arm.
        others: Ended runs of the other arm, whose values are subtracted.
        metric: The metric.

    Returns:
        None if an arm has no value.
    """
    scored = _scored([*rows, *others], metric)
    return difference_by_seed(*(dict(_values(each, metric, scored)) for each in (rows, others)))


def _scored(rows: Sequence[TrialRow], metric: str) -> bool:
    """True if all runs have scores of the metric by prompt, on the same set of prompts."""
    images = [row.images for row in rows if row.images is not None and metric in row.images.tuned]
    return len(images) == len(rows) and len({(each.source, each.num_prompts) for each in images}) == 1


def _values(rows: Sequence[TrialRow], metric: str, scored: bool) -> list[tuple[int, Sequence[float]]]:
    """(seed, values by prompt) of each run, or (seed, a single value) without scores by prompt."""
    if scored:
        return [(row.seed, row.images.tuned[metric]) for row in rows if row.images is not None]
    return [(row.seed, [value]) for row in rows if (value := row.value(metric)) is not None]


@dataclass(frozen=True)
class Gap:
    """A cell of a table of differences."""

    estimate: Estimate
    significant: bool
    """True if it differs from zero after Holm's correction for all cells of the table."""

    @property
    def tested(self) -> bool:
        """True if seeds are counted: without them two runs of one method would differ too."""
        return _tested_p(self.estimate) is not None


def _tested_p(estimate: Estimate) -> float | None:
    return None if estimate.counted == "prompts only" else estimate.p_value


def gap_table(results: Results, arms: Sequence[Arm], metrics: Sequence[str]) -> dict[tuple[str, str], Gap]:
    """(arm, metric) -> difference from the reference runs, tested together; without cells that have no value."""
    reference = reference_rows(results)
    found = {
        (arm.name, metric): estimate
        for arm in arms
        if arm.name != results.reference
        for metric in metrics
        if (estimate := difference(arm.ended, reference, metric)) is not None
    }
    return tested_together(found)


def tested_together(differences: Mapping[Key, Estimate]) -> dict[Key, Gap]:
    """Test the differences of a table with Holm's correction for all of them."""
    significant = holm([_tested_p(estimate) for estimate in differences.values()])
    return {key: Gap(estimate, kept) for (key, estimate), kept in zip(differences.items(), significant, strict=True)}


def reference_rows(results: Results) -> list[TrialRow]:
    """Runs that arms are compared with: those of the reference arm, or the chosen trial if none was trained again."""
    best = results.best_row
    return results.arm(results.reference).ended or ([] if best is None else [best])


def num_tests(gaps: Iterable[Gap]) -> int:
    """Count the tests of a table."""
    return sum(gap.tested for gap in gaps)


def arm_metrics(results: Results) -> list[str]:
    """The table's columns: objective, trained reward, other held-out scores, truths, diversity."""
    found = {name for arm in results.arms for row in arm.rows for evaluation in row.history for name in evaluation}
    accuracies = {name for name in found if name.endswith("_accuracy") and name != "truth/content_accuracy"}
    people = {name for name in found if is_of_one_person(name) and name != results.objective}
    rewards = [TRAINED_GAIN, TRAINED_REWARD, f"{TRAINED_REWARD}/relative", OWN_WORDS]
    groups = [sorted(name for name in found if name.startswith(prefix)) for prefix in ("evaluator/", "truth/")]
    ordered = [results.objective, f"{results.objective}/relative", *rewards, *groups[0], *groups[1], "image/diversity"]
    return [name for name in dict.fromkeys(ordered) if name in found - accuracies - people]


def compute_notes(arms: Sequence[Arm], reference: str) -> list[str]:
    """Notes on arms that were trained with clearly more or less compute than the reference arm."""
    means = {arm.name: spent.mean for arm in arms if arm.kind == "method" and (spent := arm.over_seeds(CALLS))}
    expected = means.get(reference)
    if expected is None:
        return []
    return [
        f"{name} was trained with {calls / expected:.2f} times the velocity evaluations of {reference}."
        for name, calls in means.items()
        if abs(calls / expected - 1) > EQUAL
    ]

"""Importance of search parameters: the share of the variance between trials that each parameter explains."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MINIMUM_TRIALS = 20
"""Minimum number of trials to show shares: in half of all sweeps with 8 trials, one of four parameters without an
effect has a share above 30%."""
_NUM_GROUPS = 3
_PERMUTATIONS = 999


def variance_explained(params: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> dict[str, float | None]:
    """Compute the share of the scores' variance that each parameter explains alone, corrected for chance.

    Trials are grouped by the parameter's value, numbers with more than three values by thirds of the trials.
    The correlation ratio is the variance between groups over the whole variance. Few trials in many groups
    give a large ratio by chance, so Kelley's correction is applied, `1 - (1 - ratio) (n - 1) / (n - groups)`,
    and the result is cut at 0. Joint effects of parameters are not included.

    Args:
        params: One mapping per trial: dotted path -> value. A parameter with a condition is missing in some trials; its
            share is of the variance between the others.
        scores: One finite score per trial.

    Returns:
        Path -> share in [0, 1]; None if it is undefined: a single value, a different value for every trial, equal
        scores, or fewer than `MINIMUM_TRIALS` of several trials that have a parameter with a condition.
    """
    paths = dict.fromkeys(path for trial in params for path in trial)
    found = {path: trials_with(path, params, scores) for path in paths}
    return {
        path: None if len(values) < min(len(params), MINIMUM_TRIALS) else _corrected_ratio(_groups(values), own)
        for path, (values, own) in found.items()
    }


def trials_with(
    path: str, params: Sequence[Mapping[str, Any]], scores: Sequence[float]
) -> tuple[list[Any], list[float]]:
    """Values of a parameter and scores of the trials that have it."""
    found = [(trial[path], score) for trial, score in zip(params, scores, strict=True) if path in trial]
    return [value for value, _ in found], [score for _, score in found]


def permutation_p(values: Sequence[Any], scores: Sequence[float]) -> float:
    """Compute the p-value of a parameter's share with a permutation test: shuffled scores have no effect.

    Args:
        values: Value of the parameter in each trial.
        scores: One finite score per trial.

    Returns:
        P-value in [0.001, 1], from 999 permutations with a fixed seed.
    """
    from scipy import stats

    groups = np.array(_groups(values))
    members = groups[:, None] == np.unique(groups)

    def between(shuffled: np.ndarray, axis: int = -1) -> np.ndarray:
        """Compute the variance between groups, up to a constant; the share is monotonic in it."""
        totals = np.moveaxis(shuffled, axis, -1) @ members
        return (totals**2 / members.sum(0)).sum(-1)

    centred = np.array(scores, dtype=float) - np.mean(scores)
    found = stats.permutation_test(
        (centred,),
        between,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=_PERMUTATIONS,
        alternative="greater",
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def _groups(values: Sequence[Any]) -> list[int]:
    """Assign a group number to each value."""
    names = [json.dumps(value, default=str) for value in values]
    distinct = sorted(set(names))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not numeric or len(distinct) <= _NUM_GROUPS:
        return [distinct.index(name) for name in names]
    numbers = np.array(values, dtype=float)
    # Group by value, not by position, so that equal values share a group.
    edges = np.quantile(numbers, np.arange(1, _NUM_GROUPS) / _NUM_GROUPS)
    return np.searchsorted(edges, numbers, side="right").tolist()


def _corrected_ratio(groups: Sequence[int], scores: Sequence[float]) -> float | None:
    labels, values = np.array(groups), np.array(scores, dtype=float)
    members = [values[labels == label] for label in set(groups)]
    count, total = len(values), float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0
    if not 1 < len(members) < count or total <= 1e-12 * max(1.0, float(abs(values).max()) ** 2):
        return None
    within = sum(float(((group - group.mean()) ** 2).sum()) for group in members)
    return max(0.0, 1 - within / total * (count - 1) / (count - len(members)))

"""Side effects of arms at equal gain: how far other metrics have moved when a run has gained as much as the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from srpo_ray.evaluation.comparison import Gap, arm_metrics, tested_together
from srpo_ray.evaluation.crossed import Estimate, difference_by_seed, mean_over
from srpo_ray.evaluation.results import Arm, Results, TrialRow, finite

SHARES = (0.5, 1.0)
"""Shares of the largest gain that all arms reach, at which side effects are compared."""
LEAST_SHARE = 0.25
"""An arm that gains less than this share of the reference arm's gain is left out, as it would leave no gain to
compare."""
_GRID = 12

Key = tuple[str, float, str]
"""Name of an arm, gain, metric of the side effect."""


@dataclass(frozen=True)
class EqualGain:
    """Side effects of several arms at the same gains of one metric."""

    metric: str
    direction: float
    """1 if a rise of the metric is the gain, -1 if a fall is."""
    gains: Sequence[float]
    """Gains that every run of every arm reaches, in the direction of the gain."""
    arms: Sequence[Arm]
    left_out: Sequence[str]
    """Names of arms that gain too little."""
    effects: Mapping[Key, Estimate]
    """Change of a metric since the baseline."""
    gaps: Mapping[Key, Gap]
    """Difference of the change from that of the reference arm, tested together."""


def side_metrics(results: Results, metric: str) -> list[str]:
    """Metrics whose changes are side effects of the gain: held-out scores, truths and diversity."""
    kept = ("evaluator/", "truth/", "image/diversity")
    return [name for name in arm_metrics(results) if name.startswith(kept) and name != metric]


def equal_gain(results: Results, metric: str, arms: Sequence[Arm]) -> EqualGain | None:
    """Compare side effects at gains that all arms reach.

    Args:
        results: The results.
        metric: Metric whose gain is equal.
        arms: Arms to compare, the reference arm among them.

    Returns:
        None if fewer than two arms gain enough.
    """
    direction = _direction(results, metric)
    reached = {arm.name: _largest_gain(results, arm, metric, direction) for arm in arms}
    least = LEAST_SHARE * reached.get(results.reference, 0.0)
    kept = [arm for arm in arms if reached[arm.name] > 0 and reached[arm.name] >= least]
    if len(kept) < 2 or results.reference not in {arm.name for arm in kept}:
        return None
    most = min(reached[arm.name] for arm in kept)
    gains, names = [share * most for share in SHARES], side_metrics(results, metric)
    keys = [(arm, gain, name) for arm in kept for gain in gains for name in names]
    changes = {
        (arm.name, gain, name): _by_seed(results, arm, metric, name, direction * gain) for arm, gain, name in keys
    }
    gaps = {
        (arm, gain, name): difference
        for (arm, gain, name), found in changes.items()
        if arm != results.reference
        and (difference := difference_by_seed(found, changes[results.reference, gain, name])) is not None
    }
    return EqualGain(
        metric,
        direction,
        gains,
        kept,
        [arm.name for arm in arms if arm not in kept],
        {key: mean_over([*found.values()]) for key, found in changes.items() if found},
        tested_together(gaps),
    )


def effect_curve(results: Results, arm: Arm, metric: str, effect: str) -> list[tuple[float, float]]:
    """(gain, mean change of the side effect over seeds), from no gain to the largest that all runs of the arm reach."""
    direction = _direction(results, metric)
    most = _largest_gain(results, arm, metric, direction)
    gains = [most * index / _GRID for index in range(_GRID + 1)] if most > 0 else []
    curve = [(gain, _by_seed(results, arm, metric, effect, direction * gain)) for gain in gains]
    return [(gain, mean_over([*found.values()]).mean) for gain, found in curve if found]


def change_at(results: Results, row: TrialRow, metric: str, effect: str, gain: float) -> float | None:
    """Interpolate the change of a side effect at the evaluation by which a metric has first changed by `gain`.

    Args:
        results: The results, for the baseline of a run that was not evaluated before training.
        row: The run.
        metric: Metric of the gain.
        effect: Metric of the side effect.
        gain: Signed change of `metric` since the baseline.

    Returns:
        None if the run never changed as much, or a value is missing.
    """
    before = (0.0, 0.0)
    for moved, change in _changes(results, row, metric, effect):
        if abs(moved) >= abs(gain) and moved * gain >= 0:
            share = 1.0 if moved == before[0] else (gain - before[0]) / (moved - before[0])
            return before[1] + share * (change - before[1])
        before = (moved, change)
    return None


def _by_seed(results: Results, arm: Arm, metric: str, effect: str, gain: float) -> dict[int, list[float]]:
    found = {row.seed: change_at(results, row, metric, effect, gain) for row in arm.ended}
    return {seed: [change] for seed, change in found.items() if change is not None}


def _changes(results: Results, row: TrialRow, metric: str, effect: str) -> list[tuple[float, float]]:
    """Changes of both metrics since the baseline, at every evaluation that has them."""
    starts = [_start(results, row, name) for name in (metric, effect)]
    values = [[finite(each.get(name)) for name in (metric, effect)] for each in row.history]
    return [
        (one - starts[0], other - starts[1])
        for one, other in values
        if one is not None and other is not None and starts[0] is not None and starts[1] is not None
    ]


def _start(results: Results, row: TrialRow, metric: str) -> float | None:
    start = row.value_at(metric, 0)
    return results.baseline(metric) if start is None else start


def _direction(results: Results, metric: str) -> float:
    """Of the objective the better one; of another metric that in which the reference arm moved."""
    if metric == results.objective:
        return 1.0 if results.mode == "max" else -1.0
    changes = [results.change(row, metric) for row in results.arm(results.reference).ended]
    return -1.0 if sum(change or 0.0 for change in changes) < 0 else 1.0


def _largest_gain(results: Results, arm: Arm, metric: str, direction: float) -> float:
    """The largest gain that every run of the arm reaches; 0 without a run."""
    runs = [[direction * moved for moved, _ in _changes(results, row, metric, metric)] for row in arm.ended]
    return min((max(gains, default=0.0) for gains in runs), default=0.0)

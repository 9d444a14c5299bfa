"""What a sweep found, as plain values, and what follows from them: ranks, gains, signs."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from srpo_ray.evaluation.reward_hacking import HackingSign

CONTENT_ACCURACY = "truth/content_accuracy"
TRAINED_REWARD = "reward/total"
"""The weighted sum of the trained models' scores for the plain prompt."""
OWN_WORDS = f"{TRAINED_REWARD}/trained"
"""The same for a run's own control words, positive minus negative; runs with a relative reward only."""
TRAINED_GAIN = f"{TRAINED_REWARD}/gain"
"""Rise of the reward that the run itself is trained to raise since its first evaluation, in standard deviations of that
reward over the base model's images; so runs that are trained on different rewards or words share a scale."""


Kind = Literal["base", "trial", "repeat", "ablation"]


@dataclass(frozen=True)
class TrialRow:
    """One run of a sweep."""

    name: str
    kind: Kind
    """`base`: baseline; `repeat`: the best trial with another seed; `ablation`: the best with changes."""
    label: str
    """What the run is, for people."""
    params: Mapping[str, Any]
    """Dotted config path -> value, for example `{"training.optimizer.lr": 3e-6}`."""
    history: Sequence[Mapping[str, float]]
    """One mapping per evaluation, in order: `step` and the metrics."""
    status: str
    """`finished`, `stopped: reward hacking`, `stopped early` or `failed: why`."""
    seconds: float
    seed: int
    gallery: Path | None = None
    """Image file with base and tuned images."""
    signs: Sequence[HackingSign] = ()
    """Signs of reward hacking, in order."""
    best_update: int | None = None
    """Update of the best evaluation of a run that reward-hacking detection stopped; its checkpoint is kept."""

    @property
    def failed(self) -> bool:
        """Whether the run broke; its numbers are shown and not ranked."""
        return self.status.startswith("failed")

    @property
    def ended(self) -> bool:
        """True if the run ended at its last update or by reward-hacking detection."""
        return self.status in ("finished", "stopped: reward hacking")

    @property
    def evaluated(self) -> Mapping[str, float]:
        """Evaluation by which the run is ranked: the last, or the best if reward-hacking detection stopped it."""
        best = [evaluation for evaluation in self.history if evaluation.get("update") == self.best_update]
        return (best or self.history or [{}])[-1]

    def value(self, metric: str) -> float | None:
        """The metric at the evaluation that stands for the run; None if it is missing, NaN or infinite there."""
        return _finite(self.evaluated.get(metric))

    def value_at(self, metric: str, update: int | None) -> float | None:
        """The metric at the evaluation after that many updates; None if there is none, or no finite value in it."""
        return next((_finite(each.get(metric)) for each in self.history if each.get("update") == update), None)

    @property
    def stopped_early(self) -> bool:
        """True if the scheduler stopped the run, so that its last evaluation is that of a shorter training."""
        return self.status == "stopped early"


@dataclass(frozen=True)
class SweepReport:
    """All runs of a sweep and what they were compared by."""

    title: str
    objective: str
    """Metric that trials are ranked by, a held-out score."""
    reward: str
    """Metric of the reward that was trained on, such as `TRAINED_GAIN` where runs are trained on different ones."""
    created: str
    command: str
    commit: str | None
    hardware: str
    rows: Sequence[TrialRow]
    best: str
    """Name of the best trial."""
    best_config_yaml: str
    notes: Sequence[str] = field(default=())
    mode: Literal["max", "min"] = "max"
    """Whether a larger or a smaller objective is better."""

    @property
    def trials(self) -> list[TrialRow]:
        """Rows of the search itself."""
        return [row for row in self.rows if row.kind == "trial"]

    @property
    def best_row(self) -> TrialRow | None:
        """The row called `best`, or the first in rank when there is none."""
        named = [row for row in self.rows if row.name == self.best]
        ranked = [row for rank, row in ranking(self) if rank == 1]
        return next(iter(named + ranked), None)

    def baseline(self, metric: str) -> float | None:
        """The base model's value: of the base row, else of a trial's evaluation at update 0."""
        base = [row.value(metric) for row in self.rows if row.kind == "base"]
        starts = [row.history[0] for row in self.rows if row.history and row.history[0].get("update") == 0]
        values = base + [float(start.get(metric, math.nan)) for start in starts]
        return next((value for value in values if value is not None and math.isfinite(value)), None)

    def change(self, row: TrialRow, metric: str) -> float | None:
        """The row's value minus the base model's."""
        value, base = row.value(metric), self.baseline(metric)
        return None if value is None or base is None else value - base

    def improvement(self, row: TrialRow) -> float | None:
        """How much better than the base model the row's objective is; negative if worse."""
        change = self.change(row, self.objective)
        return change if change is None or self.mode == "max" else -change


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def shared_step(report: SweepReport) -> int | None:
    """Updates after which all trials were last evaluated together; None if they share no evaluation after training.

    Trials that a scheduler stopped have fewer updates than the others, so only there do values compare. Failed trials
    do not count.
    """
    trials = [row for row in report.trials if not row.failed and row.history]
    updates = [
        {int(each["update"]) for each in row.history if _finite(each.get(report.objective)) is not None}
        for row in trials
    ]
    return max((update for update in set.intersection(*updates) if update > 0), default=None) if updates else None


def ranking(report: SweepReport) -> list[tuple[int | None, TrialRow]]:
    """All rows, the best objective first; trials that were stopped early come after those that ended.

    Trials that were stopped early are ranked among themselves by the last update that all trials share, since a value
    after fewer updates does not compare with one after all of them. Rows without a value and failed ones come last.

    Ranks count trials only, from 1. The other kinds stand where their value puts them, unranked: a repeat
    of the winner is no second place.
    """
    sign, shared = 1 if report.mode == "max" else -1, shared_step(report)

    def order(row: TrialRow) -> tuple[int, float]:
        value = row.value_at(report.objective, shared) if row.stopped_early else None
        value = row.value(report.objective) if value is None else value
        group = 2 if row.failed or value is None else int(row.stopped_early)
        return (group, 0.0 if value is None else -sign * value)

    ranks: list[tuple[int | None, TrialRow]] = []
    count = 0
    for row in sorted(report.rows, key=order):
        ranked = row.kind == "trial" and not row.failed and row.value(report.objective) is not None
        count += ranked
        ranks.append((count if ranked else None, row))
    return ranks


def flagged(report: SweepReport) -> list[TrialRow]:
    """Rows in which reward-hacking detection rang, the worst objective first."""
    sign = 1 if report.mode == "max" else -1
    rows = [row for row in report.rows if row.signs and not row.failed]
    return sorted(rows, key=lambda row: -math.inf if (value := row.value(report.objective)) is None else sign * value)


def varied_params(report: SweepReport) -> list[str]:
    """Dotted paths whose value is not the same in all trials, in the order in which they first appear."""
    paths = dict.fromkeys(path for row in report.trials for path in row.params)

    def count(path: str) -> int:
        return len({json.dumps(row.params.get(path), default=str) for row in report.trials})

    return [path for path in paths if count(path) > 1]


def metric_names(report: SweepReport) -> list[str]:
    """Every metric that some row has, the objective and the reward first, the others by name."""
    found = {name for row in report.rows for evaluation in row.history for name in evaluation} - {"update"}
    first = [name for name in (report.objective, report.reward) if name in found]
    return list(dict.fromkeys(first + sorted(found)))

"""Runs read back from their folders as rows, and the choice of the best trial."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from statistics import fmean, pstdev
from typing import Any

from srpo_ray.config import ExperimentConfig, load_run
from srpo_ray.evaluation.comparison import GRADIENT_CALL
from srpo_ray.evaluation.image_scores import ImageScores
from srpo_ray.evaluation.results import CALLS, SECONDS, TRAINED_GAIN, Arm, Kind, Search, TrialRow
from srpo_ray.runs.folder import RunFolder, read_rows, read_test_means
from srpo_ray.runs.warnings import read_signs
from srpo_ray.training.early_stop import trained_reward


def read_row(
    folder: RunFolder,
    kind: Kind,
    label: str,
    changes: Mapping[str, Any],
    seed: int,
    error: str | None,
) -> TrialRow:
    """One run as a row of the table and the report.

    Args:
        folder: Where it wrote.
        kind: Its part in the experiment.
        label: What it is, for people.
        changes: Dotted config path -> value.
        seed: Seed of the run.
        error: Why it failed; None if it did not.
    """
    updates = read_rows(folder.updates)
    history = with_costs(with_trained_gain(read_rows(folder.evaluations), folder), updates)
    seconds = sum(row.get("time/update", 0.0) for row in updates)
    if folder.finished.exists():
        status = "stopped: reward hacking" if folder.stopped_by_hacking else "finished"
    elif error:
        status = f"failed: {error}"
    else:
        status = "stopped early"
    gallery = folder.gallery if folder.gallery.exists() else None
    row = TrialRow(
        folder.path.name,
        kind,
        label,
        changes,
        history,
        status,
        seconds,
        seed,
        gallery,
        read_signs(folder),
        folder.best_update,
        test=read_test_means(folder) if folder.finished.exists() else (),
    )
    return replace(row, images=read_image_scores(folder, row))


def read_image_scores(folder: RunFolder, row: TrialRow) -> ImageScores | None:
    """Scores of a run prompt by prompt: on the test prompts if it has been tested, else on the validation prompts.

    Args:
        folder: The run's folder.
        row: The run. On validation prompts the tuned model is that of the evaluation by which the row is ranked.

    Returns:
        None if the base model or a tuned model is not scored. A run whose best weights are those of the base model has
        the base model's scores twice.
    """
    test, validation = read_rows(folder.test_scores), read_rows(folder.scores)
    first = 0 if row.best_update == 0 else 1
    tested = [each for each in test if each["update"] >= first]
    ranked = [each for each in validation if first <= each["update"] == row.evaluated.get("update")]
    if test and test[0]["update"] == 0 and tested:
        return ImageScores.of(*_with_image_gains(test[0], tested[-1], folder), "test")
    if validation and validation[0]["update"] == 0 and ranked:
        return ImageScores.of(*_with_image_gains(validation[0], ranked[-1], folder), "validation")
    return None


def _with_image_gains(
    baseline: dict[str, Any], tuned: dict[str, Any], folder: RunFolder
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two rows of `scores.jsonl` with `reward/total/gain` for each image."""
    scale = _reward_scale(baseline, folder)
    if scale is None:
        return baseline, tuned
    metric, start, spread = scale

    def with_gains(row: dict[str, Any]) -> dict[str, Any]:
        gains = [(value - start) / spread for value in row["scores"].get(metric, [])]
        return {**row, "scores": {**row["scores"], TRAINED_GAIN: gains}}

    return with_gains(baseline), with_gains(tuned)


def with_trained_gain(history: list[dict[str, float]], folder: RunFolder) -> list[dict[str, float]]:
    """The evaluations of a run with `reward/total/gain`; as they are if the run has not scored the base model.

    Args:
        history: One mapping per evaluation: `step` and the means of all metrics.
        folder: The run's folder, for its config and the base model's scores image by image.
    """
    first = next(iter(read_rows(folder.scores)), None)
    scale = None if first is None or first["update"] != 0 else _reward_scale(first, folder)
    if scale is None:
        return history
    metric, start, spread = scale
    return [{**row, TRAINED_GAIN: (row[metric] - start) / spread} if metric in row else row for row in history]


def _reward_scale(baseline: Mapping[str, Any], folder: RunFolder) -> tuple[str, float, float] | None:
    """Metric of the reward that a run is trained on, its mean and its spread over the base model's images."""
    metric = trained_reward(load_run([folder.config]))
    values = baseline["scores"].get(metric, [0.0])
    spread = pstdev(values)
    return (metric, fmean(values), spread) if spread else None


def with_costs(
    history: Sequence[Mapping[str, float]], updates: Sequence[Mapping[str, float]]
) -> list[dict[str, float]]:
    """The evaluations of a run with the cost of its updates up to each: velocity evaluations, and seconds.

    Args:
        history: One mapping per evaluation: `step` and the means of all metrics.
        updates: One mapping per update, in order.
    """
    calls = accumulate(
        row.get("cost/forward", 0.0) + GRADIENT_CALL * row.get("cost/forward_backward", 0.0) for row in updates
    )
    seconds = accumulate(row.get("time/update", 0.0) for row in updates)
    spent = {0: (0.0, 0.0)} | dict(
        zip((row["update"] for row in updates), zip(calls, seconds, strict=True), strict=True)
    )
    costs = [spent[max(update for update in spent if update <= evaluation["update"])] for evaluation in history]
    return [{**each, CALLS: cost[0], SECONDS: cost[1]} for each, cost in zip(history, costs, strict=True)]


def baseline_row(rows: Sequence[TrialRow]) -> TrialRow | None:
    """The baseline: the evaluation at update 0 of the first row that has one; None if no row has."""
    row = next((row for row in rows if row.history), None)
    if row is None:
        return None
    return TrialRow("baseline", "base", "model before training", {}, row.history[:1], "finished", 0.0, row.seed)


def best_arm(config: ExperimentConfig, arms: Sequence[Arm], searches: Sequence[Search]) -> str:
    """Name of the arm with the best mean objective over seeds among those whose mean keeps every `max_fall`.

    An arm that was searched and not trained again counts with its chosen trial. If no arm keeps the limits, or none has
    the objective, it is the reference arm.
    """
    chosen = {each.arm: [row for row in each.rows if row.name == each.chosen] for each in searches}
    sign = 1 if config.mode == "max" else -1
    found: dict[str, float] = {}
    for arm in [arm for arm in arms if arm.kind == "method"]:
        rows = [row for row in arm.ended or chosen.get(arm.name, []) if row.value(config.objective) is not None]
        if rows and all(_mean_fall(rows, name) <= fall for name, fall in config.max_fall.items()):
            found[arm.name] = sign * fmean(row.value(config.objective) or 0.0 for row in rows)
    return max(found, key=lambda name: found[name], default=config.reference.name)


def _mean_fall(rows: Sequence[TrialRow], metric: str) -> float:
    """Mean fall of a metric below the baseline; NaN if a row does not have the metric."""
    return fmean(row.history[0].get(metric, math.nan) - row.evaluated.get(metric, math.nan) for row in rows)


def choose_best(rows: Sequence[TrialRow], config: ExperimentConfig, arm: str) -> tuple[TrialRow, str | None]:
    """Choose the finished trial with the best objective among those that keep every `max_fall`.

    Args:
        rows: Trials of one arm.
        config: Objective and limits.
        arm: Name of the arm.

    Returns:
        The trial, and a note if no trial kept them all, so that the best was chosen without.

    Raises:
        ValueError: If no trial has a value of the objective.
    """
    candidates = [row for row in rows if row.ended and row.value(config.objective) is not None]
    if not candidates:
        known = sorted({name for row in rows for name in (row.history[-1] if row.history else ())})
        reasons = "; ".join(sorted({row.status for row in rows})) or "no trial ran"
        raise ValueError(
            f"expected a finished trial of {arm} with the metric {config.objective!r}, got none ({reasons});"
            f" metrics that trials have: {', '.join(known) or 'none'}"
        )
    best, keeping = best_of(candidates, config), [row for row in candidates if keeps(row, config.max_fall)]
    assert best is not None
    if keeping:
        return best, None
    limits = " or ".join(f"{name} fall by more than {fall:g}" for name, fall in config.max_fall.items())
    return best, f"{arm}: every trial let {limits}; the best was chosen without that limit."


def best_of(rows: Sequence[TrialRow], config: ExperimentConfig) -> TrialRow | None:
    """The best ended run among those that keep every `max_fall`, or among all if none does; None if none has ended.

    Args:
        rows: Runs; the first of equals wins. One that lacks the metric of a limit does not keep it.
        config: Objective and limits.
    """
    sign = 1 if config.mode == "max" else -1
    ended = [(sign * value, row) for row in rows if row.ended and (value := row.value(config.objective)) is not None]
    keeping = [
        (value, row) for value, row in ended if not _lacking(row, config.max_fall) and keeps(row, config.max_fall)
    ]
    return max(keeping or ended, key=lambda each: each[0], default=(0.0, None))[1]


def keeps(row: TrialRow, max_fall: Mapping[str, float]) -> bool:
    """Test that no metric fell further below its value at update 0 than allowed.

    Raises:
        ValueError: If there is no such metric.
    """
    first, last = row.history[0], row.evaluated
    if unknown := _lacking(row, max_fall):
        raise ValueError(
            f"max_fall: expected metrics of an evaluation, got {', '.join(unknown)}; there are {', '.join(last)}"
        )
    return all(first[name] - last[name] <= fall for name, fall in max_fall.items())


def _lacking(row: TrialRow, max_fall: Mapping[str, float]) -> list[str]:
    """Metrics of limits that a run lacks at its start or at the evaluation that stands for it."""
    return [name for name in max_fall if name not in row.history[0] or name not in row.evaluated]

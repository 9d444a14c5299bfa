"""What a study found, read back from its trials' folders."""

from collections.abc import Mapping
from statistics import fmean, pstdev
from typing import Any

from srpo_ray.config import StudyConfig, SweepConfig, load_run
from srpo_ray.evaluation.results import TRAINED_GAIN, Kind, TrialRow
from srpo_ray.runs.folder import RunFolder, read_rows
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
        kind: Its part in the study.
        label: What it is, for people.
        changes: Dotted config path -> value.
        seed: Seed of the run.
        error: Why it failed; None if it did not.
    """
    history = with_trained_gain(read_rows(folder.evaluations), folder)
    seconds = sum(row.get("time/update", 0.0) for row in read_rows(folder.updates))
    if folder.finished.exists():
        status = "finished" if folder.best_update is None else "stopped: reward hacking"
    elif error:
        status = f"failed: {error}"
    else:
        status = "stopped early"
    gallery = folder.gallery if folder.gallery.exists() else None
    return TrialRow(
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
    )


def with_trained_gain(history: list[dict[str, float]], folder: RunFolder) -> list[dict[str, float]]:
    """The evaluations of a run with `reward/total/gain`; as they are if the run has not scored the base model.

    Args:
        history: One mapping per evaluation: `step` and the means of all metrics.
        folder: The run's folder, for its config and the base model's scores image by image.
    """
    first = next(iter(read_rows(folder.scores)), None)
    if first is None or first["update"] != 0:
        return history
    metric = trained_reward(load_run([folder.config]))
    baseline = first["scores"].get(metric, [0.0])
    start, spread = fmean(baseline), pstdev(baseline)
    if spread == 0:
        return history
    return [{**row, TRAINED_GAIN: (row[metric] - start) / spread} if metric in row else row for row in history]


def baseline_row(trial: TrialRow) -> TrialRow:
    """The model before training, as a trial's evaluation at update 0 found it."""
    return TrialRow("base_model", "base", "base model", {}, trial.history[:1], "finished", 0.0, trial.seed)


def choose_best(rows: list[TrialRow], sweep: SweepConfig | StudyConfig) -> tuple[TrialRow, str | None]:
    """The finished trial with the best objective among those that keep every `max_fall`.

    Returns:
        The trial, and a note if no trial kept them all, so that the best was chosen without.

    Raises:
        ValueError: If no trial has a value of the objective.
    """
    candidates = [row for row in rows if row.ended and row.value(sweep.objective) is not None]
    if not candidates:
        known = sorted({name for row in rows for name in (row.history[-1] if row.history else ())})
        reasons = "; ".join(sorted({row.status for row in rows})) or "no trial ran"
        raise ValueError(
            f"expected a finished trial with the metric {sweep.objective!r}, got none ({reasons});"
            f" metrics that trials have: {', '.join(known) or 'none'}"
        )
    sign = 1 if sweep.mode == "max" else -1

    def objective(row: TrialRow) -> float:
        value = row.value(sweep.objective)
        assert value is not None
        return sign * value

    keeping = [row for row in candidates if keeps(row, sweep.max_fall)]
    if keeping or not sweep.max_fall:
        return max(keeping or candidates, key=objective), None
    limits = " or ".join(f"{name} fall by more than {fall:g}" for name, fall in sweep.max_fall.items())
    return max(candidates, key=objective), f"Every trial let {limits}; the best was chosen without that limit."


def keeps(row: TrialRow, max_fall: Mapping[str, float]) -> bool:
    """Whether no metric fell further below its value at update 0 than allowed.

    Raises:
        ValueError: If there is no such metric.
    """
    first, last = row.history[0], row.evaluated
    unknown = [name for name in max_fall if name not in first or name not in last]
    if unknown:
        raise ValueError(
            f"max_fall: expected metrics of an evaluation, got {', '.join(unknown)}; there are {', '.join(last)}"
        )
    return all(first[name] - last[name] <= fall for name, fall in max_fall.items())

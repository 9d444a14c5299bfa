"""What a study found, read back from its trials' folders."""

from collections.abc import Mapping
from typing import Any

from srpo_ray.config import StudyConfig, SweepConfig
from srpo_ray.evaluation.results import Kind, TrialRow
from srpo_ray.training.health import read_alarms
from srpo_ray.training.run_folder import RunFolder, read_rows


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
    history = read_rows(folder.evaluations)
    seconds = sum(row.get("time/step", 0.0) for row in read_rows(folder.steps))
    if folder.finished.exists():
        status = "finished" if folder.best_step is None else "stopped by alarm"
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
        read_alarms(folder),
        folder.best_step,
    )


def untrained_row(trial: TrialRow) -> TrialRow:
    """The model before training, as a trial's evaluation at update 0 found it."""
    return TrialRow("base_model", "base", "untrained model", {}, trial.history[:1], "finished", 0.0, trial.seed)


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
    """Whether no metric fell further below its value at step 0 than allowed.

    Raises:
        ValueError: If there is no such metric.
    """
    first, last = row.history[0], row.judged
    unknown = [name for name in max_fall if name not in first or name not in last]
    if unknown:
        raise ValueError(
            f"max_fall: expected metrics of an evaluation, got {', '.join(unknown)}; there are {', '.join(last)}"
        )
    return all(first[name] - last[name] <= fall for name, fall in max_fall.items())

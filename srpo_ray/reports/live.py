"""Report of work in progress: the report of what exists so far, with its state and its age."""

import time
from collections.abc import Mapping
from dataclasses import replace

from srpo_ray.live.state import ENDED, UNBEGUN, Progress, RunState
from srpo_ray.reports.report import Alert, Bar, Bars, Facts, Part, Refresh, Report, Section, Text

_LATE = (
    "No newer page has come: its driver was stopped, or it hangs. `srpo-ray watch` with the folder of this page tells"
    " which."
)
_ENDS = {"failed": "Failed", "interrupted": "Interrupted"}


def live_report(report: Report, progress: Progress, updates: Mapping[str, int], best: str = "") -> Report:
    """Turn a report of the rows that exist so far into one of work in progress, or of work that has ended early.

    Args:
        report: Report of the rows.
        progress: State of the work.
        updates: Name of each run that has begun -> updates made.
        best: Best result so far in a few words; empty without one.

    Returns:
        The report. It loads itself again only while the work is in progress.
    """
    done = f"{progress.num_done} of {progress.total} runs done"
    if progress.kind == "run":
        done = ", ".join(f"update {updates.get(run.name, 0)} of {run.num_updates}" for run in progress.runs)
    running = progress.state == "running"
    headline = f"{'In progress' if running else _ENDS.get(progress.state, 'Ended')}: {done}"
    parts: list[Part] = [Text(f"Best so far: {best}", style="lead")] if best else []
    if not running:
        parts.append(Alert(progress.message or "The command that started it continues it.", warning=True))
    return replace(
        report,
        headline=headline,
        summary=[*parts, *report.summary],
        sections=[progress_section(progress, updates), *report.sections],
        files={},
        terminal=(),
        refresh=Refresh(time.time(), f"The run is in progress: {done}.", _LATE) if running else None,
    )


def progress_section(progress: Progress, updates: Mapping[str, int]) -> Section:
    """Facts of the state, and a bar for each run that has begun and not ended."""
    minutes = (progress.written - progress.started) / 60
    counts = {run.status: 0 for run in progress.runs}
    for run in progress.runs:
        counts[run.status] += 1
    facts = [("at work", progress.phase)] * bool(progress.phase)
    facts += [(status, str(count)) for status, count in counts.items()] if progress.kind == "experiment" else []
    facts += [("running for", f"{minutes:.0f} min"), ("driver", f"process {progress.pid} on {progress.host}")]
    begun = [run for run in progress.runs if run.status not in (*ENDED, *UNBEGUN)]
    bars = [_bar(run, updates.get(run.name, 0)) for run in begun]
    parts: list[Part] = [Facts([*facts, *progress.facts.items()])]
    return Section("Progress", [*parts, *([Bars(bars)] if bars else [])])


def _bar(run: RunState, update: int) -> Bar:
    return Bar(run.name, update / run.num_updates, f"{update}/{run.num_updates}", run.label)

"""Lines of a log: one per event between two views of the same runs."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from srpo_ray.evaluation.numbers import number, signed
from srpo_ray.live.state import ENDED, Progress
from srpo_ray.live.view import RunView, View
from srpo_ray.runs.folder import CHECKPOINT_DAMAGED, CHECKPOINT_FAILED

HEARTBEAT_S = 60.0
"""Seconds without an event after which a line says that the runs are still at work."""
_PROBLEMS = (CHECKPOINT_FAILED, CHECKPOINT_DAMAGED)


@dataclass(frozen=True)
class Event:
    """Line about something that has happened."""

    text: str
    warning: bool = False
    """True for a failure, a sign of reward hacking, or a problem with a checkpoint."""


def event_lines(before: View | None, now: View) -> Iterator[Event]:
    """Describe what has happened between two views, without the time.

    Args:
        before: Earlier view. None for the first: then runs that began earlier are summed up in a line each.
        now: Later view.
    """
    if now.progress.phase and (before is None or before.progress.phase != now.progress.phase):
        yield Event(f"{now.progress.title}: {now.progress.phase}")
    earlier = {} if before is None else {run.name: run for run in before.runs}
    for run in now.runs:
        if before is None and run.state.status in ENDED:
            continue
        known = earlier.get(run.name)
        for event in _run_events(known, run, now.progress):
            yield Event(f"{run.name}: {event.text}", event.warning)


def _run_events(known: RunView | None, run: RunView, progress: Progress) -> Iterator[Event]:
    """Events of one run since it was seen before; of a run that is seen for the first time, its state."""
    if run.state.status == "not started":
        if known is None or known.state.status != "not started":
            yield Event("not started: the budget has no room for it")
        return
    ended = run.state.status in ENDED
    if known is None and ended:
        # An earlier start of the experiment has trained it.
        yield Event(end_text(run), warning=run.state.status == "failed")
        return
    if run.state.status != "waiting" and (known is None or known.state.status == "waiting"):
        label = f": {run.state.label}" if run.state.label else ""
        yield Event(f"{_continued(run) if run.update and known is None else 'started'}{label}")
    notices = run.notices[len(known.notices) if known else len(run.notices) :]
    yield from (Event(text, warning=text.startswith(_PROBLEMS)) for text in notices)
    skip = max(0, len(run.evaluations) - 1)
    for index in range(len(known.evaluations) if known else skip, len(run.evaluations)):
        yield Event(evaluation_text(run, progress, index))
    signs = [text for text in run.signs if known is None or text not in known.signs]
    yield from (Event(f"reward hacking: {text}", warning=True) for text in signs)
    # Later evaluations are in the heartbeat lines only.
    if run.activity and not run.evaluations and (known is None or not known.activity):
        yield Event(run.activity)
    if ended and known is not None and known.state.status not in ENDED:
        yield Event(end_text(run), warning=run.state.status == "failed")


def _continued(run: RunView) -> str:
    return f"at update {run.update}/{run.state.num_updates}"


def evaluation_text(run: RunView, progress: Progress, index: int = -1) -> str:
    """One evaluation of a run with the change of its metrics since the base model."""
    evaluation = run.evaluations[index]
    values = []
    for metric in progress.metrics:
        if metric in evaluation.values:
            change = run.change(metric, index)
            since = "" if change is None else f" ({signed(change)})"
            values.append(f"{metric} {number(evaluation.values[metric])}{since}")
    return f"update {evaluation.update}/{run.state.num_updates}: {', '.join(values) or 'evaluated'}"


def end_text(run: RunView) -> str:
    """The end of a run."""
    if run.state.status == "failed":
        return f"failed at update {run.update}: {run.state.error or 'for an unknown reason'}"
    return f"{'finished' if run.state.status == 'done' else run.state.status} at update {run.update}"


def summary(view: View) -> str:
    """Number of runs by status, and the facts of the status line."""
    progress = view.progress
    parts = [f"{progress.num_done} of {progress.total} run{'s' if progress.total != 1 else ''} done"]
    for status in ("running", "stopped early", "failed", "not started"):
        count = sum(run.status == status for run in progress.runs)
        parts += [f"{count} {status}"] if count else []
    return ", ".join([*parts, *(f"{name} {text}" for name, text in progress.facts.items())])


def heartbeat_line(view: View) -> str:
    """State of the running runs in one line."""
    running = [f"{run.name} {_position(run)}" for run in view.runs if run.state.status == "running"]
    state = summary(view) if view.progress.kind == "experiment" else ""
    return "; ".join(part for part in (state, ", ".join(running)) if part) or "starting"


def _position(run: RunView) -> str:
    if run.activity:
        return f"{_continued(run)}, {run.activity}"
    left = "" if run.seconds_left is None else f", about {duration(run.seconds_left)} left"
    return f"{_continued(run)}{left}"


def duration(seconds: float) -> str:
    """Format seconds as `0:42`, `12:05` or `3:07:12`."""
    minutes, second = divmod(int(max(seconds, 0.0)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def elapsed(progress: Progress) -> str:
    """Time since the start of the command, until its end."""
    until = time.time() if progress.state == "running" else progress.written
    return duration(until - progress.started)

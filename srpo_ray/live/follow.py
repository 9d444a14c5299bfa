"""Follower of a run in its driver: heartbeats, the display and the live page, in a thread beside the work."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from srpo_ray.credentials import redact
from srpo_ray.errors import CommandInterruptedError
from srpo_ray.live.display import Display, open_display
from srpo_ray.live.output import LOG, steady_output
from srpo_ray.live.state import Progress, RunState, State, change_progress, read_progress, write_progress
from srpo_ray.live.view import ViewReader

logger = logging.getLogger(__name__)

BEAT_S = 5.0
"""Seconds between two heartbeats in the progress file."""
PAGE_S = 20.0
"""Seconds between two live pages; the end of a run brings the next one forward."""
_PAGE_SHARE = 0.1
"""Largest share of the time that is spent on pages."""
UNREADABLE = (OSError, ValueError, LookupError, ArithmeticError, TypeError)
"""Errors of reading rows and of making a page from them: full disks, half-written rows, metrics that are no numbers."""

PageWriter = Callable[[Progress], Path]
"""Writes the page of a state of a run, and returns its path."""


class Follower:
    """Context in which the work of a command is followed. SIGHUP and a closed terminal do not end the work.

    Args:
        folder: Folder of the run or the experiment.
        progress: State at the start.
        page: Writer of the live page, called at most every `PAGE_S` seconds, and at the end; None writes none.
    """

    def __init__(
        self,
        folder: Path,
        progress: Progress,
        page: PageWriter | None = None,
    ) -> None:
        self._folder = folder
        self._progress = progress
        self._page = page
        self._facts: Callable[[], Mapping[str, str]] = dict
        self._reader = ViewReader(folder)
        self._output = steady_output(folder / LOG)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)
        self._next_page = 0.0
        self._earliest_page = 0.0
        self._page_done = -1
        self._known_errors: set[str] = set()

    def add_facts(self, facts: Callable[[], Mapping[str, str]]) -> None:
        """Show further facts in the status line, which are asked for at each heartbeat."""
        self._facts = facts

    def __enter__(self) -> Self:
        """Write the progress file, open the display, and begin to follow."""
        write_progress(self._folder, self._progress)
        self._output.__enter__()
        self._display: Display = open_display(self._folder / LOG)
        self._display.note(f"follow it elsewhere: srpo-ray watch {self._folder}")
        self._write_page(self._progress)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop, and record how the work ended: finished, failed or interrupted."""
        state, message = _outcome(error)
        self.stop(state, message)
        self._output.__exit__(kind, error, traceback)

    def stop(self, state: State = "running", message: str = "") -> None:
        """End display and live page, before results are printed and the final page is written.

        Args:
            state: Outcome of the work; `running` before it is known.
            message: Reason of an end that was not planned.
        """
        first = not self._stopping.is_set()
        self._stopping.set()
        if first:
            self._thread.join()
        progress = self._change(state, message)
        if progress is not None and first:
            self._show(progress)
        # The final report of an experiment has been written between the two calls.
        if progress is not None and state != "running" and (first or state != "finished"):
            self._write_page(progress)
        if first:
            self._display.close()

    def _change(self, state: State, message: str) -> Progress | None:
        try:
            known = read_progress(self._folder)
            runs = [] if known is None else [ended_run(known, run, state, message) for run in known.runs]
            return change_progress(self._folder, state=state, message=message, runs=runs)
        except UNREADABLE as error:
            self._warn(error)
            return None

    def _follow(self) -> None:
        progress: Progress | None = self._progress
        next_beat = 0.0
        while not self._stopping.wait(self._display.interval):
            try:
                due = time.monotonic() >= next_beat
                progress = change_progress(self._folder, facts=self._facts()) if due else read_progress(self._folder)
                next_beat = time.monotonic() + BEAT_S if due else next_beat
            except UNREADABLE as error:
                self._warn(error)
                continue
            if progress is not None:
                self._show(progress)
                due = self._next_page if progress.num_done == self._page_done else self._earliest_page
                if time.monotonic() >= due:
                    self._write_page(progress)

    def _show(self, progress: Progress) -> None:
        try:
            self._display.show(self._reader.read(progress))
        except UNREADABLE as error:
            self._warn(error)

    def _write_page(self, progress: Progress) -> None:
        if self._page is None:
            return
        start = time.monotonic()
        try:
            path = self._page(progress)
            if self._page_done < 0:
                self._display.note(f"report, rewritten while the run works: {path.resolve().as_uri()}")
        except UNREADABLE as error:
            self._warn(error)
        self._page_done = progress.num_done
        self._earliest_page = start + (time.monotonic() - start) / _PAGE_SHARE
        self._next_page = max(start + PAGE_S, self._earliest_page)

    def _warn(self, error: Exception) -> None:
        """Log an error of following once; the work itself goes on."""
        text = redact(f"{type(error).__name__}: {error}")
        if text not in self._known_errors:
            self._known_errors.add(text)
            logger.warning("the progress of %s cannot be shown or written now: %s", self._folder, text)


def ended_run(progress: Progress, run: RunState, state: State, message: str) -> RunState:
    """The state of one run when the work of its command ends.

    Args:
        progress: State of the command before.
        run: The run.
        state: Outcome of the command.
        message: Reason of an end that was not planned.
    """
    if state == "running" or run.status != "running":
        return run
    if progress.kind == "experiment" or state == "interrupted":
        return replace(run, status="interrupted")
    return replace(run, status="failed" if state == "failed" else "done", error=message)


def _outcome(error: BaseException | None) -> tuple[State, str]:
    if error is None:
        return "finished", ""
    if isinstance(error, KeyboardInterrupt | CommandInterruptedError):
        return "interrupted", str(error)
    if isinstance(error, SystemExit):
        # Ray's handler of SIGTERM raises it.
        return "interrupted", "stopped by a signal"
    return "failed", redact(str(error) or type(error).__name__)

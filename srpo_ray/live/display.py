"""Displays of a run or an experiment: a table that is redrawn in a terminal, lines everywhere else."""

import os
import sys
import time
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.text import Text

from srpo_ray.live.lines import HEARTBEAT_S, elapsed, event_lines, heartbeat_line
from srpo_ray.live.output import CapturedOutput
from srpo_ray.live.table import view_table
from srpo_ray.live.view import View


class Display(Protocol):
    """Display of views on standard error."""

    interval: float
    """Seconds between two views."""

    def show(self, view: View) -> None:
        """Show a later view."""

    def note(self, text: str) -> None:
        """Show a line that stays."""

    def close(self) -> None:
        """End the display; what it shows stays."""


def open_display(log: Path) -> Display:
    """Open the display that suits standard error.

    Args:
        log: File for the output after the loss of the terminal.
    """
    redraws = os.isatty(2) and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return TableDisplay(log) if redraws else LineDisplay()


class LineDisplay:
    """One line per event; a heartbeat line after a minute without any."""

    interval = 2.0

    def __init__(self, before: View | None = None) -> None:
        self._before = before
        self._last = time.monotonic()

    def show(self, view: View) -> None:
        """Print the events since the last view, each with the time since the start."""
        texts = [event.text for event in event_lines(self._before, view)]
        if not texts and time.monotonic() - self._last >= HEARTBEAT_S:
            texts = [heartbeat_line(view)]
        for text in texts:
            self.note(f"[{elapsed(view.progress)}] {text}")
        self._before = view

    def note(self, text: str) -> None:
        """Print a line."""
        self._last = time.monotonic()
        print(" ".join(text.split()), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Do nothing: every line stays."""


class TableDisplay:
    """Table that is redrawn in place. Output of other code stands above it. After the loss of the terminal: lines.

    Args:
        log: File for the output after the loss of the terminal.
    """

    interval = 1.0

    def __init__(self, log: Path) -> None:
        self._log = log
        self._before: View | None = None
        self._captured = CapturedOutput(self.note)
        self._console = _TerminalConsole(self._captured.start())
        self._live: Live | None = Live(
            console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._lines: LineDisplay | None = None
        self._guarded(self._live.start)

    def show(self, view: View) -> None:
        """Redraw the table; failures and signs of reward hacking stay above it as lines."""
        if self._lines is not None:
            self._lines.show(view)
            return
        warnings = [event.text for event in event_lines(self._before, view) if event.warning]
        self._before = view
        for text in warnings:
            self.note(text)
        table = view_table(view, self._console.size.height)
        self._guarded(lambda: self._live and self._live.update(table, refresh=True))

    def note(self, text: str) -> None:
        """Print a line above the table."""
        if self._lines is not None:
            self._lines.note(text)
            return
        self._guarded(lambda: self._console.print(Text.from_ansi(text), soft_wrap=True))

    def close(self) -> None:
        """Leave the last table, the cursor and the terminal's own output as they belong."""
        live, self._live = self._live, None
        if live is not None:
            self._guarded(live.stop)
        if self._lines is None:
            self._captured.stop(self._log)
            self._lines = LineDisplay(self._before)

    def _guarded(self, draw: object) -> None:
        """Call a drawing function. If the terminal is closed, write lines to the log file from then on."""
        assert callable(draw)
        try:
            draw()
        except OSError:
            if self._lines is None:
                self._live, self._lines = None, LineDisplay(self._before)
                self._captured.stop(self._log)


class _TerminalConsole(Console):
    """Console whose size is that of its own terminal. Rich asks the process's streams, which are captured."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(file=stream)

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and lines."""
        try:
            columns, lines = os.get_terminal_size(self.file.fileno())
        except (OSError, ValueError):
            columns, lines = 0, 0
        return ConsoleDimensions(columns or 80, lines or 25)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        """Ignore a fixed size."""

"""Output of a driver on a terminal that is shared, resized, interrupted or closed."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DRIVER = """
import logging, os, subprocess, sys, time
logging.basicConfig()  # keeps the stream that standard error is now
from dataclasses import replace
from pathlib import Path
from srpo_ray.live.display import LineDisplay, TableDisplay
from srpo_ray.live.follow import Follower
from srpo_ray.live.state import Progress, RunState

TableDisplay.interval = LineDisplay.interval = 0.02
folder = Path(sys.argv[1])
start = replace(Progress.start("one", "run", 1, []), runs=[RunState("one", 4, "running")])
try:
    with Follower(folder, start):
        print("a result of Python")
        logging.warning("a line of logging")
        os.write(2, b"a line of C++\\n")
        subprocess.run(["sh", "-c", "echo a line of a child >&2"])
        time.sleep(0.2)
        (folder / "ready").touch()
        until = time.monotonic() + float(sys.argv[2])
        while time.monotonic() < until:
            time.sleep(0.02)
            print("a later result", flush=True)
except KeyboardInterrupt:
    print("interrupted in order")
print("the end")
"""
CURSOR_HIDDEN, CURSOR_SHOWN = "\x1b[?25l", "\x1b[?25h"


@contextmanager
def driver(folder: Path, seconds: float, stderr: int | None = None) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A driver on a new terminal, once it is at work, and the other end of the terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", DRIVER, str(folder), str(seconds)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=stderr or theirs, env=environment, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            yield process, ours
        finally:
            process.kill()


def read_until(terminal: int, folder: Path, name: str = "ready") -> str:
    """What the terminal shows until the driver makes a file, or closes the terminal."""
    shown = b""
    deadline = time.monotonic() + 60
    while not (folder / name).exists():
        assert time.monotonic() < deadline
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                shown += os.read(terminal, 2**16)
            except OSError:
                break
    return shown.decode()


def screen(shown: str) -> list[str]:
    """Lines that stand on the screen in the end, by the control sequences that rich uses."""
    lines = [""]
    row = 0
    for token in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", shown):
        if token == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif token.endswith("A"):
            row -= int(token[2:-1] or 1)
        elif token == "\x1b[2K":
            lines[row] = ""
        elif not token.startswith(("\x1b", "\r")):
            lines[row] += token
    return [line.rstrip() for line in lines]


def test_lines_of_other_code_stand_above_one_table_and_ctrl_c_restores_the_terminal(tmp_path: Path) -> None:
    with driver(tmp_path, 60) as (process, terminal):
        shown = read_until(terminal, tmp_path)
        process.send_signal(signal.SIGINT)
        shown += read_until(terminal, tmp_path, "never")
        assert process.wait(30) == 0
    lines = screen(shown)
    expected = ("a result of Python", "WARNING:root:a line of logging", "a line of C++", "a line of a child")
    positions = [lines.index(line) for line in expected]
    heading = next(index for index, line in enumerate(lines) if line.startswith(" run"))
    assert max(positions) < heading
    assert sum(line.startswith(" run") for line in lines) == 1
    assert shown.count(" run") > 3, "the table is redrawn"
    assert heading < lines.index("interrupted in order") < lines.index("the end")
    assert shown.rindex(CURSOR_SHOWN) > shown.rindex(CURSOR_HIDDEN)
    assert '"state": "interrupted"' in (tmp_path / "progress.json").read_text()


def test_driver_goes_on_when_its_terminal_is_closed_and_writes_to_a_file(tmp_path: Path) -> None:
    with driver(tmp_path, 0.5) as (process, terminal):
        read_until(terminal, tmp_path)
        os.close(terminal)
        process.send_signal(signal.SIGHUP)
        assert process.wait(30) == 0
    assert '"state": "finished"' in (tmp_path / "progress.json").read_text()
    log = (tmp_path / "output.log").read_text().splitlines()
    assert "a later result" in log
    assert "one: finished at update 0" in log[-2]
    assert log[-1] == "the end"


def test_driver_goes_on_when_the_reader_of_its_pipe_ends(tmp_path: Path) -> None:
    read, write = os.pipe()
    with driver(tmp_path, 0.3, stderr=write) as (process, terminal):
        os.close(write)
        read_until(terminal, tmp_path)
        os.close(read)
        read_until(terminal, tmp_path, "never")
        assert process.wait(30) == 0
    assert "one: finished at update 0" in (tmp_path / "output.log").read_text()


@pytest.mark.parametrize("terminal_kind", ["dumb", "unknown"])
def test_terminal_that_cannot_move_its_cursor_gets_lines(
    tmp_path: Path, terminal_kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srpo_ray.live import display

    monkeypatch.setenv("TERM", terminal_kind)
    monkeypatch.setattr(display.os, "isatty", lambda _: True)
    monkeypatch.setattr(display.sys.stderr, "isatty", lambda: True)
    assert isinstance(display.open_display(tmp_path / "output.log"), display.LineDisplay)

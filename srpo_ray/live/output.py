"""Output of a driver that survives the loss of its terminal, and text of other code above a live table."""

import io
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

LOG = "output.log"
"""Name of the file in the folder of a run that takes the output after the loss of the terminal."""
_POLL_S = 0.2


class SteadyStream:
    """Text stream that writes to a file from the moment on at which its terminal or pipe is closed.

    Args:
        stream: Stream to write to.
        log: File that takes the output after that.
    """

    def __init__(self, stream: TextIO, log: Path) -> None:
        self._stream = stream
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text; see the class for a closed terminal."""
        try:
            return self._stream.write(text)
        except OSError:
            self.fall_back(text)
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write buffered text."""
        try:
            self._stream.flush()
        except OSError:
            self.fall_back()

    def fall_back(self, text: str = "") -> None:
        """Write to the file from now on, beginning with the text that the terminal did not take.

        Args:
            text: Text whose write has failed.
        """
        # A stream of a notebook has no file descriptor, and the disk may be full: then the text is lost.
        with suppress(OSError):
            descriptor = self._stream.fileno()
            move_to_file(descriptor, self._log)
            before = os.fstat(descriptor).st_size
            self._stream.flush()
            # A buffered stream has kept the text, an unbuffered one has not.
            if os.fstat(descriptor).st_size == before:
                self._stream.write(text)
                self._stream.flush()


def move_to_file(descriptor: int, log: Path) -> None:
    """Make a file descriptor append to a file."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(file, descriptor)
    os.close(file)


def is_closed(descriptor: int) -> bool:
    """Test whether the terminal or the reader of a file descriptor is gone."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))


@contextmanager
def steady_output(log: Path) -> Iterator[None]:
    """Let the block go on when its terminal is closed, as under `nohup`: the output goes to a file from then on.

    SIGHUP is ignored, also by processes that the block starts.

    Args:
        log: File that takes the output after the loss of the terminal; it is made only then.
    """
    streams = [SteadyStream(stream, log) for stream in (sys.stdout, sys.stderr)]
    with ExitStack() as stack:
        # Python changes handlers of signals in the main thread only.
        if threading.current_thread() is threading.main_thread():
            previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
            stack.callback(signal.signal, signal.SIGHUP, previous or signal.SIG_DFL)
        stack.enter_context(redirect_stdout(streams[0]))  # pyright: ignore[reportArgumentType]
        stack.enter_context(redirect_stderr(streams[1]))  # pyright: ignore[reportArgumentType]
        try:
            yield
        finally:
            for stream in streams:
                # Results are printed after the block.
                if _is_gone(stream):
                    stream.fall_back()
                stream.flush()


def _is_gone(stream: SteadyStream) -> bool:
    try:
        return is_closed(stream.fileno())
    except (io.UnsupportedOperation, AttributeError):
        return False


class CapturedOutput:
    """Standard output and error of this process as lines, for a display that draws on the terminal meanwhile.

    File descriptors are captured, not Python's streams: Ray's C++ code, handlers of `logging` and child processes write
    to them directly.

    Args:
        show: Receiver of each line, called in a thread.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._saved: dict[int, int] = {}
        self._read = -1
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._pass_on, name="captured-output", daemon=True)

    def start(self) -> TextIO:
        """Begin, and return a stream to the terminal."""
        _flush()
        self._saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2) if os.isatty(descriptor)}
        self._read, write = os.pipe()
        for descriptor in self._saved:
            os.dup2(write, descriptor)
        os.close(write)
        self._thread.start()
        return os.fdopen(os.dup(self._saved[2]), "w", encoding="utf-8", errors="replace")

    def stop(self, log: Path) -> None:
        """Restore the terminal, or what takes its place after its loss.

        Args:
            log: File that takes the output if the terminal is closed.
        """
        _flush()
        for descriptor, saved in self._saved.items():
            if is_closed(saved):
                move_to_file(descriptor, log)
            else:
                os.dup2(saved, descriptor)
            os.close(saved)
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _pass_on(self) -> None:
        rest = b""
        # A child process may keep the pipe open, so its end is no sign that all has been read.
        while (ready := bool(select.select([self._read], [], [], _POLL_S)[0])) or not self._stopped.is_set():
            data = os.read(self._read, 2**16) if ready else b""
            if ready and not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._show(_visible(line))
        if rest:
            self._show(_visible(rest))
        os.close(self._read)


def _visible(line: bytes) -> str:
    """The text that a terminal would show: a carriage return overwrites what stands before it."""
    parts = [part for part in line.decode("utf-8", "replace").split("\r") if part]
    return parts[-1] if parts else ""


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()

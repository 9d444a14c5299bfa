"""Child process of a reward, as its replica sees it: start, calls, last lines of its standard error, end."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import srpo_ray
from srpo_ray.config.reward_environment import EnvironmentSection
from srpo_ray.rewards.environment import bootstrap
from srpo_ray.rewards.environment.protocol import VERSION, Array, ConnectionEndedError, Values, receive, send
from srpo_ray.rewards.environment.venv import driver_folders, provide_environment

STDERR_LINES = 20
"""Number of the last lines of a process's output that an error shows."""
_END_TIMEOUT_S = 5.0


class ProcessEndedError(Exception):
    """End of the child process during a call; the message has its exit code and its last lines."""


class AnswerError(Exception):
    """Error of the reward in the child process.

    Args:
        reason: Type and text of the error.
        mistake: True if the config or the environment is wrong, false if the reward failed.
    """

    def __init__(self, reason: str, mistake: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.mistake = mistake


class EnvironmentProcess:
    """Process with an environment's interpreter. It ends with this process, however this one ends.

    Args:
        environment: Section `environment` of the reward.

    Raises:
        ValueError: If the environment cannot be made, or its interpreter does not start.
    """

    def __init__(self, environment: EnvironmentSection) -> None:
        interpreter = find_interpreter(environment)
        ours, theirs = socket.socketpair()
        # The child reads the one end until this process, which alone has the other, ends.
        lifeline, alive = os.pipe()
        command = [str(interpreter), "-I", "-u", bootstrap.__file__]
        command += [str(theirs.fileno()), str(lifeline), json.dumps(_setting())]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=(theirs.fileno(), lifeline),
                # Ctrl-C in a terminal interrupts this process, which then ends the child.
                start_new_session=True,
            )
        except OSError as error:
            os.close(alive)
            raise ValueError(
                f"expected a Python interpreter at {interpreter}, got {error}; correct `environment.python`"
            ) from error
        finally:
            theirs.close()
            os.close(lifeline)
        self._connection = ours
        self._lines: deque[str] = deque(maxlen=STDERR_LINES)
        assert self._process.stdout is not None, "it is a pipe"
        self._reader = threading.Thread(target=_forward, args=(self._process.stdout, self._lines), daemon=True)
        self._reader.start()
        self.close = weakref.finalize(self, _end, self._process, ours, alive)
        self._greet(interpreter)

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def call(self, values: Values, arrays: Sequence[Array] = ()) -> tuple[Values, list[Array]]:
        """Call the child and wait for its answer.

        Raises:
            AnswerError: If the child answers with an error.
            ProcessEndedError: If the child has ended.
        """
        try:
            send(self._connection, values, arrays)
            answer, results = receive(self._connection)
        except ConnectionEndedError as error:
            raise ProcessEndedError(self._how_it_ended(str(error))) from error
        if "error" in answer:
            raise AnswerError(answer["error"], answer["mistake"])
        return answer, results

    def _greet(self, interpreter: Path) -> None:
        try:
            hello, _ = receive(self._connection)
        except ConnectionEndedError as error:
            raise ValueError(
                f"expected an interpreter with torch and numpy, Python 3.11 or newer, at {interpreter}, got one whose"
                f" process ended: {self._how_it_ended(str(error))}"
            ) from error
        assert hello["protocol"] == VERSION, f"both processes run the files of one package, got {hello}"

    def _how_it_ended(self, reason: str) -> str:
        try:
            code = self._process.wait(_END_TIMEOUT_S)
            # Output of grandchildren may keep the pipe open.
            self._reader.join(_END_TIMEOUT_S)
            reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            self._process.kill()
        last = "".join(f"\n  {line}" for line in self._lines)
        return f"process {self.pid} ended ({reason}){'; its last lines:' if last else ' without output'}{last}"


def find_interpreter(environment: EnvironmentSection) -> Path:
    """Return the interpreter of an environment; make the environment first if it has packages.

    Raises:
        ValueError: If there is no such interpreter, or the packages cannot be installed.
    """
    if environment.python is None:
        return provide_environment(environment.packages)
    interpreter = Path(environment.python)
    if not os.access(interpreter, os.X_OK) or interpreter.is_dir():
        raise ValueError(
            f"expected the interpreter of a Python environment on this node, got {environment.python!r}, which is no"
            " program; correct `environment.python`, or make the environment on every node"
        )
    # Not resolved: the place of the link names the environment.
    return Path.cwd() / interpreter


def project_folders(path: Sequence[str], installed: Sequence[str]) -> list[str]:
    """Select the entries of a `sys.path` that are neither the interpreter's library nor installed packages."""
    known = [Path(os.__file__).parent, *map(Path, installed)]
    entries = [Path(entry or ".").absolute() for entry in path]
    return [
        str(entry)
        for entry in entries
        if entry.suffix != ".zip" and not any(entry.is_relative_to(folder) for folder in known)
    ]


def _setting() -> bootstrap.Setting:
    installed = driver_folders()
    package = str(Path(srpo_ray.__file__).parent)
    return {"package": package, "project": project_folders(sys.path, installed), "shared": installed}


def _forward(output: IO[str], lines: "deque[str]") -> None:
    """Copy the child's output to the standard error of this process and keep its last lines."""
    with output:
        for line in output:
            lines.append(line.rstrip())
            sys.stderr.write(line)


def _end(process: "subprocess.Popen[Any]", connection: socket.socket, alive: int) -> None:
    connection.close()
    os.close(alive)
    # The child leads its session, so the group has its own children too.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

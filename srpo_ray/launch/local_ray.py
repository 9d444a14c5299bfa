"""Start of a local Ray: on loopback only, with a short temporary folder, and with retries on a busy machine."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import ray
from ray._common.utils import get_default_ray_temp_dir, get_default_system_temp_dir
from ray._private import ray_constants

from srpo_ray.errors import RunFailedError

OVERSUBSCRIPTION = 8
"""Logical CPUs per core of a local Ray: its processes wait for each other more than they compute."""
START_ATTEMPTS = 3
"""Maximum number of attempts to start a local Ray. In each, Ray's processes have 30 s to start."""

_SHORT_FOLDER = "/tmp"
_LONGEST_SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"
_MOST_BYTES = (104 if sys.platform == "darwin" else 108) - 1
"""Maximum length of the path of a Unix socket, in bytes."""

logger = logging.getLogger(__name__)


def start_local_ray(env_vars: Mapping[str, str], workers: str | None = None) -> None:
    """Start a Ray for this process and connect to it.

    Args:
        env_vars: Environment variables of Ray's processes. They are not a runtime environment, because the workers that
            Ray starts ahead of requests lack one, so that every actor would wait for a new process.
        workers: Command in the place of the Python executable of Ray's workers, see `forked_workers`; None takes that
            of this process.

    Raises:
        ValueError: If Ray's temporary folder cannot be used.
        RunFailedError: If the machine is too busy: all `START_ATTEMPTS` attempts exceed Ray's time limit.
    """
    _require_folder()
    cpus = (os.cpu_count() or 1) * OVERSUBSCRIPTION
    runtime_env = {"py_executable": workers} if workers else None
    # Workers ahead of requests would have Ray's own executable, so none would be used.
    ahead = {"RAY_prestart_worker_first_driver": "0"} if workers else {}
    for attempt in range(1, START_ATTEMPTS + 1):
        before = set(psutil.Process().children(recursive=True))
        try:
            with on_loopback(), _environment({**env_vars, **ahead}):
                # Without `local` Ray would join whichever cluster was last started on this machine.
                ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, runtime_env=runtime_env)
        except KeyboardInterrupt:
            # Ray stops the raylet only, whose agents then live on for a minute.
            _end(set(psutil.Process().children(recursive=True)) - before)
            raise
        # Ray raises a bare `Exception` if its processes take longer than 30 s.
        except Exception as error:
            if "timed out" not in str(error).lower():
                raise
            _end(set(psutil.Process().children(recursive=True)) - before)
            if attempt == START_ATTEMPTS:
                raise RunFailedError(_too_slow(error)) from error
            logger.warning("Ray did not start in time (%s); attempt %d of %d", _load(), attempt + 1, START_ATTEMPTS)
        else:
            return


@contextmanager
def on_loopback() -> Iterator[None]:
    """Make a Ray that is started in the block listen on 127.0.0.1 only.

    By default it listens on every address of the machine, so anyone who reaches a port could run code here. Passing an
    address to `ray.init` does not help, as Ray treats loopback as a mistake; Ray's switch for macOS does.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that start in the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def shorten_temporary_folder() -> None:
    """Set `RAY_TMPDIR` to /tmp if `TMPDIR` is too long for Ray's sockets, as in many batch systems.

    A `RAY_TMPDIR` of the user does not change. Every command does the same, so that the address `auto` finds a Ray that
    another command has started.
    """
    if "RAY_TMPDIR" not in os.environ and _is_too_long(get_default_ray_temp_dir()):
        logger.warning("TMPDIR is too long for Ray's sockets; Ray uses %s instead", _SHORT_FOLDER)
        os.environ["RAY_TMPDIR"] = _SHORT_FOLDER


def _is_too_long(folder: str) -> bool:
    return len(os.fsencode(Path(folder) / _LONGEST_SOCKET)) > _MOST_BYTES


def _require_folder() -> None:
    folder = Path(get_default_ray_temp_dir())
    if _is_too_long(str(folder)):
        most = _MOST_BYTES - len(_LONGEST_SOCKET) - len("/ray/")
        raise ValueError(
            f"RAY_TMPDIR: expected a path of at most {most} bytes, as Ray's sockets are below it, got"
            f" {get_default_system_temp_dir()}; set it to a short folder, such as RAY_TMPDIR={_SHORT_FOLDER}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable_{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"expected a writable folder for Ray's sockets and logs, got {folder} ({error.strerror}); set"
            f" RAY_TMPDIR to another short folder, such as {_SHORT_FOLDER}"
        ) from error


def _end(processes: set[psutil.Process]) -> None:
    """Kill the processes of a failed start: they would slow down the next attempt."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(list(processes), timeout=10)


def _load() -> str:
    return f"load average {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"


def _too_slow(error: Exception) -> str:
    return (
        f"expected a local Ray to start within 30 s, got none in {START_ATTEMPTS} attempts ({_load()}): {error} Run the"
        " command again when the machine is less busy, or start Ray with `ray start --head` and pass --address auto"
    )

"""Start of a local Ray: on loopback alone, in a short folder, and again where a busy machine is too slow."""

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
"""Logical CPUs per core of a Ray that is started here: its processes wait for each other more than they compute."""
START_ATTEMPTS = 3
"""Starts of a local Ray before a command ends. Ray gives its own processes 30 s in each."""

_SHORT_FOLDER = "/tmp"
_LONGEST_SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"
_MOST_BYTES = (104 if sys.platform == "darwin" else 108) - 1
"""Longest path of a Unix socket."""

logger = logging.getLogger(__name__)


def start_local_ray(env_vars: Mapping[str, str]) -> None:
    """Start a Ray for this process and connect to it.

    Args:
        env_vars: Environment variables of its workers.

    Raises:
        ValueError: If Ray's temporary folder cannot be used.
        RunFailedError: If the machine is too busy: no start of `START_ATTEMPTS` ended within Ray's own time limit.
    """
    _require_folder()
    cpus = (os.cpu_count() or 1) * OVERSUBSCRIPTION
    runtime_env = {"env_vars": dict(env_vars)}
    for attempt in range(1, START_ATTEMPTS + 1):
        before = set(psutil.Process().children(recursive=True))
        try:
            with on_loopback():
                # Without `local` Ray would join whichever cluster was last started on this machine.
                ray.init("local", num_cpus=cpus, include_dashboard=False, runtime_env=runtime_env, log_to_driver=False)
        # Ray raises the base class itself if its processes take longer than 30 s.
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
    """Let a Ray that is started in the block listen on 127.0.0.1 alone.

    Else it listens on every address of the machine, where anyone who reaches a port could have code run here. An
    address given to `ray.init` does not help, as it takes loopback for a mistake; its switch for macOS does.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def shorten_temporary_folder() -> None:
    """Set `RAY_TMPDIR` to /tmp if `TMPDIR` is too long for Ray's sockets, as batch systems set it.

    A `RAY_TMPDIR` of the user stays as it is. Every command does the same, so that the address `auto` finds a Ray that
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
            f"RAY_TMPDIR: expected a folder of at most {most} bytes, as Ray's sockets lie in it, got"
            f" {get_default_system_temp_dir()}; set it to a short folder, such as RAY_TMPDIR={_SHORT_FOLDER}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable_{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"expected a folder for Ray's sockets and logs that can be written, got {folder} ({error.strerror}); set"
            f" RAY_TMPDIR to another short folder, such as {_SHORT_FOLDER}"
        ) from error


def _end(processes: set[psutil.Process]) -> None:
    """Kill what a failed start left behind: it would slow down the next one."""
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
        " command again when other programs have ended, or start a Ray with `ray start --head` and give --address auto"
    )

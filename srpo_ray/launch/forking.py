"""Start of the fork server: its processes train on one machine, and inherit its imports."""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from srpo_ray.config import RunConfig
from srpo_ray.launch import fork_client, fork_server
from srpo_ray.tracking.client import CLIENT_SETTINGS

PACKAGES = (
    "torch",
    "torchvision",
    "pandas",
    "scipy.stats",
    "scipy.ndimage",
    "diffusers.models.transformers.transformer_flux",
    "diffusers.models.autoencoders.autoencoder_kl",
    "transformers.models.clip.modeling_clip",
    "transformers.models.t5.modeling_t5",
    "peft",
    "open_clip",
    "mlflow.store.tracking.sqlalchemy_store",
    "deepspeed",
)
"""Packages of a training loop and of reward models; none imports Ray."""

WAIT_S = 30.0
"""Seconds that a worker waits for the imports before it does without the server; Ray waits for 60 s."""


def can_fork(config: RunConfig) -> bool:
    """Test whether the processes of a run may be forked.

    CUDA cannot be used after a fork. Outside Linux, a fork is unsafe with the loaded libraries. Some builds of Python
    lack `os.pidfd_open`.

    Args:
        config: The run.
    """
    training, pool = config.training, config.rewards.pool
    has_gpu = training.num_gpus or pool.replica_resources.get("GPU")
    in_trial = training.max_workers == 1 and not training.resources
    return sys.platform == "linux" and hasattr(os, "pidfd_open") and in_trial and not has_gpu


@contextmanager
def forked_workers(config: RunConfig, address: str | None, note: Callable[[str], None]) -> Iterator[str | None]:
    """Start the fork server for the block, beside the imports of this process.

    Args:
        config: A run of the block.
        address: Address of a Ray cluster; None uses `RAY_ADDRESS`, the Ray of this process, or starts a local one.
        note: Receives a line if the server cannot start or ends early.

    Yields:
        Command that starts a worker of a local Ray, to be followed by a Python file and its arguments; None if Ray
        starts its workers itself.
    """
    if not _starts_local_workers(address) or not can_fork(config):
        yield None
        return
    with ExitStack() as stack:
        yield _start(stack, note)


def _starts_local_workers(address: str | None) -> bool:
    """Test whether this process will start a local Ray, with workers whose command is free."""
    # Not imported here: the server starts before this process has imported Ray.
    ray = sys.modules.get("ray")
    if address or os.environ.get("RAY_ADDRESS") or (ray and ray.is_initialized()):
        return False
    # Ray replaces the command of its workers under `uv run`, and a hook may.
    return not any(os.environ.get(name) for name in ("UV_RUN_RECURSION_DEPTH", "RAY_RUNTIME_ENV_HOOK"))


def server_environment() -> dict[str, str]:
    """Environment of the fork server; its workers have their own."""
    return {
        **CLIENT_SETTINGS,
        **os.environ,
        # Workers choose the number of torch's threads themselves; a fork keeps no thread.
        "OMP_NUM_THREADS": "1",
        # DeepSpeed chooses its accelerator when it is imported, and CUDA cannot be used after a fork.
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
    }


def _start(stack: ExitStack, note: Callable[[str], None]) -> str | None:
    """Start the server until the stack is closed, and return the command of its client; None without a server."""
    try:
        # Unix sockets have short paths, unlike some TMPDIR.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="srpo_ray_", dir="/tmp"))
        errors = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 # the stack closes it
        path = str(Path(folder) / "fork_server")
        server = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", fork_server.__name__, path, *PACKAGES],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=server_environment(),
                # Ctrl-C is for this process only, which then stops the server.
                start_new_session=True,
            )
        )
    except OSError as error:
        note(f"the fork server cannot start ({error}), so each worker imports its packages itself")
        return None
    stack.callback(_stop, server, errors, note)
    return shlex.join([sys.executable, "-I", "-S", fork_client.__file__, path, str(WAIT_S)])


def _stop(server: subprocess.Popen[bytes], errors: IO[bytes], note: Callable[[str], None]) -> None:
    """Stop the server; one that has ended before is a note with the last line of its errors, if there is one."""
    code = server.poll()
    if code is None:
        # During its imports it does not read its input, whose end would stop it.
        server.kill()
        return
    errors.seek(0)
    last = errors.read().decode(errors="replace").splitlines()[-1:]
    ended = f"the fork server has ended early, so later workers imported their packages themselves; exit code {code}"
    note(": ".join([ended, *last]))

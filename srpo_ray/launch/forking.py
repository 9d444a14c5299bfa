"""Start of the fork server, whose processes train on one machine without imports of their own."""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from srpo_ray.config import RunConfig
from srpo_ray.launch import fork_client, fork_server

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

    CUDA cannot be used after a fork. Outside Linux, a fork is unsafe with the loaded libraries.

    Args:
        config: The run.
    """
    return sys.platform == "linux" and not config.training.num_gpus and not config.rewards.pool.num_gpus


@contextmanager
def forked_workers(config: RunConfig, address: str | None) -> Iterator[str | None]:
    """Start the fork server for the block, beside the imports of this process.

    Args:
        config: A run of the block.
        address: Address of a Ray cluster; None uses `RAY_ADDRESS`, the Ray of this process, or starts a local one.

    Yields:
        Command that starts a worker of a local Ray, to be followed by a Python file and its arguments; None if Ray
        starts its workers itself.
    """
    # Not imported here: the server starts before this process has imported Ray.
    ray = sys.modules.get("ray")
    if address or os.environ.get("RAY_ADDRESS") or (ray and ray.is_initialized()) or not can_fork(config):
        yield None
        return
    # Unix sockets have short paths, unlike some TMPDIR.
    with tempfile.TemporaryDirectory(prefix="srpo_ray_", dir="/tmp") as folder:
        path = str(Path(folder) / "fork_server")
        command = [sys.executable, "-m", fork_server.__name__, path, *PACKAGES]
        # Workers choose the number of their threads themselves; before a fork there may be one only. DeepSpeed chooses
        # its accelerator when it is imported, and CUDA cannot be used after a fork.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        # Ctrl-C is for this process, which then ends the server by the end of its input.
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        ) as server:
            try:
                yield shlex.join([sys.executable, "-I", "-S", fork_client.__file__, path, str(WAIT_S)])
            finally:
                # During its imports it does not read its input.
                server.kill()

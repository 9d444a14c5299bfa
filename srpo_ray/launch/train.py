"""Training from config to finished run folder: Ray session, reward pool, MLflow run, Ray Train workers."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from srpo_ray.config import RunConfig
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.launch.capacity import check_capacity, node_types, require_capacity
from srpo_ray.launch.fit import fit
from srpo_ray.launch.preflight import check_inputs, open_run_folder, release_folder_on_early_failure
from srpo_ray.launch.progress import RunPageWriter, run_progress
from srpo_ray.launch.session import ray_session
from srpo_ray.rewards.pool.pool import RewardPool
from srpo_ray.runs.folder import RunFolder
from srpo_ray.tracking.client import SQLITE
from srpo_ray.tracking.runs import git_commit, tracking_uri

logger = logging.getLogger(__name__)


def check_cluster(config: RunConfig) -> None:
    """Check that the connected cluster has the resources that a config requests.

    Raises:
        ValueError: If it can never have them.
    """
    check_capacity(config)
    warn_of_shared_file(tracking_uri(config))


def warn_of_shared_file(uri: str) -> None:
    """Warn if several hosts would write MLflow's sqlite file: its locks do not work over a network share."""
    hosts = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if uri.startswith(SQLITE) and (len(hosts) > 1 or node_types()):
        logger.warning(
            "tracking.uri: expected an MLflow server in a cluster of several hosts, got the file %s; records may be"
            " lost there. Start `mlflow server` and set tracking.uri or MLFLOW_TRACKING_URI",
            uri,
        )


def train(config: RunConfig, address: str | None = None, page: RunPageWriter | None = None) -> RunFolder:
    """Run one training from config to finished run folder, or resume it where it stopped.

    Args:
        config: The run.
        address: Address of a Ray cluster; None uses `RAY_ADDRESS` or starts a local Ray.
        page: Writer of the live page; None writes none.

    Returns:
        Folder `run_root/name`.

    Raises:
        ValueError: If an input cannot be used.
        TrainingError: If the run fails.
        KeyboardInterrupt: If Ctrl-C has stopped the run.
    """
    check_inputs(config)
    config = with_absolute_paths(config)
    folder = open_run_folder(config, Path(config.run_root) / config.name)
    if folder.finished.exists():
        return folder
    with release_folder_on_early_failure(folder), run_progress(folder, config, page), ray_session(address):
        check_cluster(config)
        with reward_pool(config, f"rewards_{config.name}") as pool:
            try:
                fit(config, folder, pool, name=config.name, commit=git_commit(Path.cwd()))
            except SystemExit as error:
                # Ray Train's handler of Ctrl-C stops the workers and ends the process with an arbitrary exit code.
                raise KeyboardInterrupt from error
    return folder


@contextmanager
def reward_pool(config: RunConfig, name: str, others: int = 0) -> Iterator[str | None]:
    """Start the reward pool of a config for the block.

    Args:
        config: The run.
        name: Name of the pool.
        others: Replicas of other pools that run beside it.

    Yields:
        The name, or None if rewards are in process.
    """
    if config.rewards.in_process:
        yield None
        return
    models = (*config.rewards.models, *config.evaluation.held_out)
    require_capacity(config.rewards.pool, len(models), others)
    with RewardPool.create(config.rewards.models, config.evaluation.held_out, config.rewards.pool, name):
        yield name

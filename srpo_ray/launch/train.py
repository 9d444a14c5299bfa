"""Training from config to finished run folder: Ray session, reward pool, MLflow run, Ray Train workers."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import ray

from srpo_ray.config import RunConfig
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.imports import import_steps
from srpo_ray.launch.background import begun_in_background
from srpo_ray.launch.base_evaluation import sample_base_ahead
from srpo_ray.launch.capacity import check_capacity, is_one_machine, needs_no_worker, node_types, require_capacity
from srpo_ray.launch.fit_here import fit_here
from srpo_ray.launch.preflight import check_inputs, input_notes, open_run_folder, release_folder_on_early_failure
from srpo_ray.launch.progress import RunPageWriter, run_progress
from srpo_ray.launch.reward_checks import check_sources
from srpo_ray.launch.session import ray_session
from srpo_ray.launch.stopped_runs import ending_runs
from srpo_ray.rewards.pool.pool import RewardPool
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.folder_lock import folder_lock
from srpo_ray.tracking.client import SQLITE, create_database
from srpo_ray.tracking.runs import git_commit, tracking_uri
from srpo_ray.tracking.server import require_server
from srpo_ray.training.host import OwnProcess
from srpo_ray.training.worker import model_imports, prepare_process

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


def train(
    config: RunConfig,
    address: str | None = None,
    note: Callable[[str], object] = lambda _: None,
    page: RunPageWriter | None = None,
) -> RunFolder:
    """Run one training from config to finished run folder, or resume it where it stopped.

    Args:
        config: The run.
        address: Address of a Ray cluster; None uses `RAY_ADDRESS` or starts a local Ray.
        note: Receives each note on the inputs, such as prompts that are truncated.
        page: Writer of the live page; None writes none.

    Returns:
        Folder `run_root/name`.

    Raises:
        ValueError: If an input cannot be used.
        ConnectionError: If the MLflow server cannot be reached.
        TrainingError: If the run fails.
        KeyboardInterrupt: If Ctrl-C has stopped the run.
    """
    check_inputs(config)
    check_sources(config, address)
    config = with_absolute_paths(config)
    folder = RunFolder(Path(config.run_root) / config.name)
    if not folder.finished.exists():
        require_server(tracking_uri(config))
    folder.make()
    with folder_lock(folder.path):
        open_run_folder(config, folder.path)
        if not folder.finished.exists():
            with ending_runs(folder):
                _train_in(folder, config, address, note, page)
    return folder


def _train_in(
    folder: RunFolder,
    config: RunConfig,
    address: str | None,
    note: Callable[[str], object],
    page: RunPageWriter | None,
) -> None:
    """Train a run in its open folder, see `train`."""
    with (
        release_folder_on_early_failure(folder),
        run_progress(folder, config, page),
        begun_in_background(_imports(config)) as finish_imports,
        ray_session(address),
    ):
        check_cluster(config)
        here = is_one_machine() and needs_no_worker(config)

        def prepare() -> None:
            # The tokenizers' package takes seconds to import, and so does the training loop.
            finish_imports()
            for text in input_notes(config):
                note(text)
            create_database(tracking_uri(config))
            if here:
                prepare_process(config)
                sample_base_ahead(config, folder, None if config.rewards.in_process else name, alone=True)

        name = f"rewards_{config.name}"
        with reward_pool(config, name, meanwhile=prepare) as pool:
            names: Any = {"name": config.name, "commit": git_commit(Path.cwd())}
            if here:
                fit_here(config, folder, pool, OwnProcess(), **names)
            else:
                _fit_with_workers(config, folder, pool, **names)


def _imports(config: RunConfig) -> list[Callable[[], object]]:
    """Imports that this process needs after Ray's start, during which it would only wait."""
    if needs_no_worker(config):
        return model_imports(config)
    return import_steps("srpo_ray.launch.fit")


def _fit_with_workers(config: RunConfig, folder: RunFolder, pool: str | None, **names: Any) -> None:
    from srpo_ray.launch.fit import fit

    try:
        fit(config, folder, pool, **names)
    except SystemExit as error:
        # Ray Train's handler of Ctrl-C stops the workers and ends the process with an arbitrary exit code.
        raise KeyboardInterrupt from error


@contextmanager
def reward_pool(
    config: RunConfig,
    name: str,
    others: int = 0,
    meanwhile: Callable[[], object] | None = None,
    until: Literal["open", "placed"] = "open",
) -> Iterator[str | None]:
    """Start the reward pool of a config for the block.

    Args:
        config: The run.
        name: Name of the pool.
        others: Replicas of other pools that run beside it.
        meanwhile: Work of this process while the replicas load.
        until: State of the pool at which the block begins, see `RewardPool.create`.

    Yields:
        The name, or None if rewards are in process.
    """
    meanwhile = meanwhile or (lambda: None)
    if config.rewards.in_process:
        meanwhile()
        yield None
        return
    models = (*config.rewards.models, *config.evaluation.held_out)
    require_capacity(config.rewards.pool, len(models), others)
    rewards, evaluation = config.rewards, config.evaluation
    with RewardPool.create(rewards.models, evaluation.held_out, rewards.pool, name, meanwhile, until):
        yield name

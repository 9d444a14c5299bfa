"""The driver's side of a run: Ray, reward pool, MLflow run, and Ray Train's workers."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, ScalingConfig, TrainingFailedError, UserCallback
from ray.train import RunConfig as TrainRunConfig
from ray.train.torch import TorchTrainer

from srpo_ray.config import RunConfig
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.errors import CheckpointError, OutOfMemoryRunError, RunFailedError
from srpo_ray.launch.autoscaler_request import cancel_autoscaler_request, record_autoscaler_request
from srpo_ray.launch.capacity import cluster_capacity, node_types, node_types_text, replica_resources
from srpo_ray.launch.network import NodeNetwork
from srpo_ray.launch.preflight import check_inputs, open_run_folder, release_folder_on_early_failure
from srpo_ray.launch.progress import progress_bar
from srpo_ray.launch.session import ray_session
from srpo_ray.rewards.base import RewardError
from srpo_ray.rewards.pool.pool import RewardPool
from srpo_ray.runs.folder import RunFolder
from srpo_ray.tracking.client import SQLITE
from srpo_ray.tracking.runs import flatten, git_commit, start_run, tracking_uri
from srpo_ray.training.worker import train_worker
from srpo_ray.training.worker_arguments import WorkerArguments

logger = logging.getLogger(__name__)

NonRetryableError = RewardError | CheckpointError | OutOfMemoryRunError | ValueError
"""What no restart mends."""


class TrainingError(RunFailedError):
    """A run that could not go on; the message says why."""


class MinimalTorchTrainer(TorchTrainer):
    """`TorchTrainer` without two processes that Ray Train starts for each run and that nothing here uses.

    Each costs seconds to start. One manages Ray Data, the other removes the placement group of a killed controller:
    it asks Ray's dashboard, and where there is none it outlives its run. Groups go with their job, or by
    `search.trial.ReleaseTrials`.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused = ("DatasetsCallback", "PlacementGroupCleanerCallback")
        return [callback for callback in super()._create_default_callbacks() if type(callback).__name__ not in unused]


class StopOnNonRetryableError(UserCallback):
    """Ends a run whose reward failed, memory or disk is full or input cannot be used: a restart would meet it again."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise a worker's lasting error in the controller, which no restart follows."""
        for error in worker_exceptions.values():
            cause = non_retryable_error(error)
            if cause:
                raise cause


def non_retryable_error(error: BaseException | None) -> NonRetryableError | None:
    """The error that no restart mends and that an exception is, wraps or was caused by."""
    while error is not None:
        if isinstance(error, NonRetryableError):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None


def check_cluster(config: RunConfig) -> None:
    """Compare what a config asks for with the cluster that Ray is connected to.

    Raises:
        ValueError: If that can never hold it.
    """
    check_capacity(config)
    warn_of_shared_file(tracking_uri(config))


def check_capacity(config: RunConfig) -> None:
    """Compare the trainer workers, alone and beside the reward replicas, with all that the cluster has.

    Of a range the least number has to fit; what is above it comes if there is room.

    Raises:
        ValueError: If there are more than can ever run at once.
    """
    need, workers = worker_resources(config), config.training.min_workers
    capacity, available = cluster_capacity(need)
    if capacity < workers:
        raise ValueError(
            f"training.num_workers: expected at most {capacity:g} workers of {need} each, as the cluster has"
            f" {available}, got {workers}; lower it or what each reserves, or add nodes{node_types_text()}"
        )

    replica = {} if config.rewards.in_process else replica_resources(config.rewards.pool)
    replicas = config.rewards.pool.least_replicas(len(config.rewards.models) + len(config.evaluation.held_out))
    together = {name: workers * need.get(name, 0) + replicas * replica.get(name, 0) for name in need | replica}
    _, available = cluster_capacity(together)
    # Sums over all nodes: what they leave undecided, Ray's own placement finds out.
    if any(amount > available[name] for name, amount in together.items()):
        raise ValueError(
            f"training.num_workers: expected {workers} workers of {need} and"
            f" {replicas} reward replicas of {replica} to fit the cluster together, got"
            f" {available} for {together}; lower either number or what each reserves, or add nodes{node_types_text()}"
        )


def warn_of_shared_file(uri: str) -> None:
    """Warn if several hosts would write MLflow's sqlite file: its locks do not hold over a network share."""
    hosts = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if uri.startswith(SQLITE) and (len(hosts) > 1 or node_types()):
        logger.warning(
            "tracking.uri: expected an MLflow server in a cluster of several hosts, got the file %s; records may be"
            " lost there. Start `mlflow server` and set tracking.uri or MLFLOW_TRACKING_URI",
            uri,
        )


def worker_resources(config: RunConfig) -> dict[str, float]:
    """What one trainer worker reserves, by Ray's names of the resources."""
    training = config.training
    gpus = {"GPU": training.num_gpus} if training.num_gpus else {}
    return {"CPU": training.num_cpus, **gpus, **training.resources}


def train(config: RunConfig, address: str | None = None) -> RunFolder:
    """Run one training from config to finished run folder, or go on with it where it stopped.

    Args:
        config: The run.
        address: Ray cluster to use; None takes `RAY_ADDRESS` or starts a local one.

    Returns:
        The folder `run_root/name`.

    Raises:
        ValueError: If an input cannot be used.
        TrainingError: If the run could not go on.
    """
    check_inputs(config)
    config = with_absolute_paths(config)
    folder = open_run_folder(config, Path(config.run_root) / config.name)
    if folder.finished.exists():
        return folder
    with release_folder_on_early_failure(folder), ray_session(address):
        check_cluster(config)
        objectives = tuple(f"evaluator/{model.name}" for model in config.evaluation.held_out)
        with (
            reward_pool(config, f"rewards_{config.name}") as pool,
            progress_bar(folder, config.training.num_updates, objectives),
        ):
            fit(config, folder, pool, name=config.name, commit=git_commit(Path.cwd()))
    return folder


@contextmanager
def reward_pool(config: RunConfig, name: str) -> Iterator[str | None]:
    """Start the reward pool of a config for the block; gives its name, or None if rewards are in process."""
    if config.rewards.in_process:
        yield None
        return
    with RewardPool.create(config.rewards.models, config.evaluation.held_out, config.rewards.pool, name):
        yield name


def fit(
    config: RunConfig,
    folder: RunFolder,
    pool: str | None,
    *,
    name: str,
    commit: str | None,
    parent_run: str | None = None,
    callbacks: tuple[UserCallback, ...] = (),
) -> None:
    """Train with Ray Train's workers until the last update.

    Args:
        config: The run.
        folder: Its folder, made already.
        pool: Name of the reward pool; None scores in process.
        name: Name of the MLflow run.
        commit: Git commit of the person's working folder, None outside of a repository.
        parent_run: MLflow run that this one is shown under.
        callbacks: More callbacks of Ray Train, called in its controller.

    Raises:
        ValueError: If an input cannot be used after all.
        TrainingError: If the run could not go on.
    """
    uri = tracking_uri(config)
    run_id = start_run(
        uri,
        config.tracking.experiment,
        name,
        parent_run_id=parent_run,
        tags={"git_commit": commit or "unknown", "run_dir": str(folder.path)},
        params=flatten(config.model_dump(mode="json")),
        record=folder.tracker_record,
    )
    trainer = _make_trainer(config, folder, WorkerArguments(config, str(folder.path), pool, uri, run_id), callbacks)
    cancel_autoscaler_request(folder)
    record_autoscaler_request(folder, trainer.train_run_context.run_id)
    try:
        trainer.fit()
    except TrainingFailedError as error:
        cause = non_retryable_error(getattr(error, "controller_failure", None))
        if isinstance(cause, ValueError):
            raise ValueError(str(cause)) from error
        raise TrainingError(str(cause or error)) from error


def _make_trainer(
    config: RunConfig, folder: RunFolder, arguments: WorkerArguments, callbacks: tuple[UserCallback, ...]
) -> MinimalTorchTrainer:
    return MinimalTorchTrainer(
        train_worker,
        train_loop_config={"arguments": arguments},
        torch_config=NodeNetwork(),
        scaling_config=ScalingConfig(
            num_workers=_num_workers(config),
            elastic_resize_monitor_interval_s=config.training.resize_interval_s,
            use_gpu=config.training.num_gpus > 0,
            resources_per_worker=worker_resources(config),
        ),
        run_config=TrainRunConfig(
            name="train",
            storage_path=str(folder.ray),
            failure_config=FailureConfig(max_failures=config.training.max_failures),
            callbacks=[StopOnNonRetryableError(), *callbacks],
        ),
    )


def _num_workers(config: RunConfig) -> int | tuple[int, int]:
    training = config.training
    return (training.min_workers, training.max_workers) if training.elastic else training.max_workers

"""One training run by Ray Train's workers: which errors stop it, and which are retried."""

from typing import Any

from ray.train import FailureConfig, ScalingConfig, TrainingFailedError, UserCallback
from ray.train import RunConfig as TrainRunConfig
from ray.train.torch import TorchTrainer

from srpo_ray.config import RunConfig
from srpo_ray.errors import CheckpointError, OutOfMemoryRunError, RunFailedError
from srpo_ray.launch.autoscaler_request import cancel_autoscaler_request, record_autoscaler_request
from srpo_ray.launch.network import NodeNetwork
from srpo_ray.rewards.base import RewardError
from srpo_ray.runs.folder import RunFolder
from srpo_ray.tracking.runs import flatten, start_run, tracking_uri
from srpo_ray.training.worker import train_worker
from srpo_ray.training.worker_arguments import WorkerArguments

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
            resources_per_worker=config.training.worker_resources,
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

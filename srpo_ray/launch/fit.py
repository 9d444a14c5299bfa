"""Training run with Ray Train workers: errors that stop it, and errors that restart it."""

from typing import Any

from ray.train import FailureConfig, ScalingConfig, TrainingFailedError, UserCallback
from ray.train import RunConfig as TrainRunConfig
from ray.train.torch import TorchTrainer

from srpo_ray.config import RunConfig
from srpo_ray.errors import CheckpointError, OutOfMemoryRunError, TrainingError
from srpo_ray.launch.autoscaler_request import cancel_autoscaler_request, record_autoscaler_request
from srpo_ray.launch.fit_here import worker_arguments
from srpo_ray.launch.train_backend import NodeNetwork
from srpo_ray.launch.trial_scaling import SharedCluster, TrialScalingPolicy
from srpo_ray.rewards.base import RewardError
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.worker import train_worker
from srpo_ray.training.worker_arguments import WorkerArguments

NonRetryableError = RewardError | CheckpointError | OutOfMemoryRunError | ValueError
"""Errors that a restart cannot fix."""


class MinimalTorchTrainer(TorchTrainer):
    """`TorchTrainer` without two helper processes per run that this project does not use.

    Each takes seconds to start. One manages Ray Data. The other removes the placement group of a killed controller: it
    polls Ray's dashboard, and without a dashboard it outlives its run. Here placement groups are removed with their
    job, or by `search.trial.ReleaseTrials`.
    """

    policy: TrialScalingPolicy | None = None
    """Policy for the number of workers; None takes Ray's."""

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        # Ray Train has no public way to choose a policy.
        if self.policy:
            arguments["scaling_policy"] = self.policy
        return super()._initialize_and_run_controller(**arguments)

    def _create_default_callbacks(self) -> list[Any]:
        unused = ("DatasetsCallback", "PlacementGroupCleanerCallback")
        return [callback for callback in super()._create_default_callbacks() if type(callback).__name__ not in unused]


class StopOnNonRetryableError(UserCallback):
    """Callback that stops a run at an error that would recur: failed reward, full memory or disk, unusable input."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise a worker's non-retryable error in the controller, which then does not restart the workers."""
        for error in worker_exceptions.values():
            cause = non_retryable_error(error)
            if cause:
                raise cause


def non_retryable_error(error: BaseException | None) -> NonRetryableError | None:
    """Find a non-retryable error in an exception, in what it wraps, or in its causes."""
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
    group: str | None = None,
    callbacks: tuple[UserCallback, ...] = (),
    cluster: SharedCluster | None = None,
) -> None:
    """Train with Ray Train's workers until the last update.

    Args:
        config: The run.
        folder: Existing folder of the run.
        pool: Name of the reward pool; None scores in the trainer process.
        name: Name of the MLflow run.
        commit: Git commit of the user's working folder; None outside a repository.
        parent_run: Id of the parent MLflow run.
        group: Name of the experiment that the run is a part of.
        callbacks: Further callbacks of Ray Train, called in its controller.
        cluster: Place of the run in an experiment that divides the workers of the cluster among its runs; None leaves
            the number of workers to Ray Train.

    Raises:
        ValueError: If a worker finds that an input cannot be used.
        TrainingError: If the run fails.
    """
    arguments = worker_arguments(config, folder, pool, name, commit, parent_run, group)
    trainer = _make_trainer(config, folder, arguments, callbacks)
    if cluster:
        interval = config.training.resize_interval_s
        trainer.policy = TrialScalingPolicy(trainer.scaling_config, cluster, folder, interval)
        cluster.shares.ask(cluster.name, cluster.workers)
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

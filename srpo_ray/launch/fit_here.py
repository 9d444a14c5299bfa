"""Training of a run in the calling process, without the processes and the import of Ray Train."""

from srpo_ray.config import RunConfig
from srpo_ray.errors import RunFailedError, TrainingError
from srpo_ray.launch.network import choose_interface
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.inputs import read_inputs
from srpo_ray.runs.start_from import take_over
from srpo_ray.tracking.runs import flatten, log_inputs, start_run, tracking_uri
from srpo_ray.training.host import Host
from srpo_ray.training.worker import train_here
from srpo_ray.training.worker_arguments import WorkerArguments


def fit_here(
    config: RunConfig,
    folder: RunFolder,
    pool: str | None,
    host: Host,
    *,
    name: str,
    commit: str | None,
    parent_run: str | None = None,
    group: str | None = None,
) -> None:
    """Train until the last update. A restart is the caller's task.

    Args:
        config: A run with one worker on the CPU.
        folder: Existing folder of the run.
        pool: Name of the reward pool; None scores in this process.
        host: Receiver of the rows.
        name: Name of the MLflow run.
        commit: Git commit of the user's working folder; None outside a repository.
        parent_run: Id of the parent MLflow run.
        group: Name of the experiment that the run is a part of.

    Raises:
        ValueError: If an input cannot be used.
        TrainingError: If the run fails for a known reason.
    """
    choose_interface()
    try:
        train_here(worker_arguments(config, folder, pool, name, commit, parent_run, group), host)
    except RunFailedError as error:
        raise TrainingError(str(error)) from error


def worker_arguments(
    config: RunConfig,
    folder: RunFolder,
    pool: str | None,
    name: str,
    commit: str | None,
    parent_run: str | None,
    group: str | None,
) -> WorkerArguments:
    """Start or continue the MLflow run, take over the run that `start_from` names, and return what a worker needs.

    Args:
        config: The run.
        folder: As for `fit_here`, like the arguments below.
        pool: Name of the reward pool.
        name: Name of the MLflow run.
        commit: Git commit.
        parent_run: Id of the parent MLflow run.
        group: Name of the experiment.

    Raises:
        ValueError: If the run that `start_from` names cannot be used.
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
        group=group,
    )
    take_over(config, folder)
    log_inputs(uri, run_id, read_inputs(folder.inputs))
    return WorkerArguments(config, str(folder.path), pool, uri, run_id, in_experiment=parent_run is not None)

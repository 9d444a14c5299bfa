"""Training of one trial in its process: in its folder, on its reward pool, reported to Ray Tune."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from srpo_ray.config import RunConfig
from srpo_ray.errors import RunFailedError, TrainingError
from srpo_ray.files import read_json, write_text
from srpo_ray.launch.base_evaluation import sample_base_ahead
from srpo_ray.launch.fit import fit, non_retryable_error
from srpo_ray.launch.fit_here import fit_here
from srpo_ray.launch.preflight import check_contrast_with, open_run_folder
from srpo_ray.launch.trial_scaling import SharedCluster
from srpo_ray.launch.worker_shares import WorkerRange, WorkerShares
from srpo_ray.rewards.pool.opening import Opening
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.search.budget_change import is_over
from srpo_ray.search.budget_requests import wait_for_admission
from srpo_ray.search.pools import pool_of
from srpo_ray.search.trial import GRACE, Experiment, trial_folder
from srpo_ray.training.host import OwnProcess
from srpo_ray.training.worker import prepare_process


class TrialHost(OwnProcess):
    """Process of a Tune trial that trains itself."""

    def report(self, row: dict[str, Any]) -> None:
        """Report to Ray Tune. If it stops the trial, this raises `SystemExit`."""
        tune.report(row)


def train_trial(experiment: Experiment, config: RunConfig, here: bool) -> None:
    """Train one trial, or only report it again if its run has finished before.

    With a budget, the trial asks for its start first. If the budget has no room for it, nothing is trained or reported.

    Args:
        experiment: Facts that all runs share.
        config: The trial's; its name, which is that of its folder too, survives a restart of the experiment.
        here: Train in this process.
    """
    known = trial_folder(experiment, config.name)
    if not known.finished.exists() and is_over(Path(experiment.folder), config.name):
        # A scheduler has stopped it, before the budget changed.
        for row in read_rows(known.evaluations):
            tune.report(row)
        return
    finished = known.finished.exists()
    pool = pool_of(experiment.pools, config)
    if not finished:
        # The experiment's own checks saw examples of the searched values only.
        check_contrast_with(config)
    if here and not finished:
        # Before the run begins: the imports are no part of it, and a process makes them once for all of its runs.
        prepare_process(config)
        sample_base_ahead(config, known, pool)
        wait_for_rewards(pool)
    if experiment.budget and not finished and not wait_for_admission(Path(experiment.folder), config):
        return
    folder = open_run_folder(config, Path(experiment.folder) / "trials" / config.name)
    if folder.finished.exists():
        for row in read_rows(folder.evaluations):
            tune.report(row)
        return
    names: Any = {"name": config.name, "commit": experiment.commit, "parent_run": experiment.parent_run}
    names["group"] = Path(experiment.folder).name
    if here:
        # Ray Tune waits for the end of a stopped trial's thread before it gives the process to the next one.
        os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
        with repeating_failure(experiment, folder):
            fit_here(config, folder, pool, TrialHost(), **names)
    else:
        cluster = _shared_cluster(experiment, config)
        fit(config, folder, pool, callbacks=(TuneReportCallback(),), cluster=cluster, **names)


def wait_for_rewards(pool: str | None) -> None:
    """Wait until the reward pool of a trial is open.

    Args:
        pool: Name of the pool; None without one.

    Raises:
        ValueError, RunFailedError: If it cannot be opened. Ray Tune would print the error as that of a trial, so it is
            raised late: `AwaitRewards` ends the search with it before.
    """
    try:
        Opening([pool] if pool else []).wait()
    except (ValueError, RunFailedError):
        time.sleep(GRACE)
        raise


def _shared_cluster(experiment: Experiment, config: RunConfig) -> SharedCluster | None:
    """Place of a run in an experiment that divides the workers of the cluster; None if Ray Train has a fixed number."""
    if experiment.shares is None:
        return None
    training = config.training
    workers = WorkerRange(training.min_workers, training.max_workers)
    return SharedCluster(WorkerShares(Path(experiment.folder)), config.name, workers, training.worker_resources)


@contextmanager
def repeating_failure(experiment: Experiment, folder: RunFolder) -> Iterator[None]:
    """Raise an error that a restart cannot fix again, without running the block, if Ray Tune restarts the trial.

    Ray Tune restarts a trial after every error. A resumed experiment runs the block.
    """
    known = read_json(folder.failure) if folder.failure.exists() else {}
    if known.get("start") == experiment.start:
        raise (ValueError if known["input"] else TrainingError)(known["message"])
    folder.failure.unlink(missing_ok=True)
    try:
        yield
    except (ValueError, RunFailedError) as error:
        if non_retryable_error(error):
            failure = {"start": experiment.start, "input": isinstance(error, ValueError), "message": str(error)}
            write_text(folder.failure, json.dumps(failure) + "\n")
        raise

"""One training run of an experiment: in its folder, on its reward pool, reported to Ray Tune."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup, PlacementGroupID

from srpo_ray.config import RunConfig, apply
from srpo_ray.errors import RunFailedError
from srpo_ray.files import read_json, write_text
from srpo_ray.launch.autoscaler_request import cancel_autoscaler_request
from srpo_ray.launch.base_evaluation import evaluate_base_ahead
from srpo_ray.launch.capacity import needs_no_worker
from srpo_ray.launch.fit import TrainingError, fit, fit_here, non_retryable_error
from srpo_ray.launch.preflight import check_contrast_with, open_run_folder
from srpo_ray.launch.trial_scaling import SharedCluster
from srpo_ray.launch.worker_shares import WorkerRange, WorkerShares
from srpo_ray.rewards.pool.opening import Opening
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.search.budget_change import is_over
from srpo_ray.search.budget_requests import wait_for_admission
from srpo_ray.search.budget_terms import BudgetTerms
from srpo_ray.search.concurrency import RunNeeds
from srpo_ray.search.pools import pool_of
from srpo_ray.training.host import OwnProcess
from srpo_ray.training.worker import load_ahead

WORKER_KEYS = ("training.num_workers", "training.num_gpus", "training.resources")
"""Config paths that decide where a run can be trained."""

GRACE = 10.0
"""Seconds between the end of a trial and the return of what it holds, or between an error of the pool and its own."""


@dataclass(frozen=True)
class Experiment:
    """Facts that all runs of an experiment share."""

    base: RunConfig
    folder: str
    pools: Mapping[str, str | None]
    """Key of a set of reward models -> name of its pool; None scores in the trainers."""
    parent_run: str
    """Id of the MLflow run whose children are the runs."""
    resume: str
    """Command that resumes the experiment."""
    commit: str | None
    """Git commit of the working folder that the experiment was started in."""
    one_machine: bool = False
    """True if the cluster is one machine that cannot grow."""
    start: str = ""
    """Unique text of this start of the experiment; a resumed one has another."""
    budget: BudgetTerms | None = None
    """Budget of the experiment; None without one."""
    follows: RunNeeds | None = None
    """Needs of its runs if their number at the same time follows the cluster; None for a fixed number."""
    shares: RunNeeds | None = None
    """Needs of its runs if they divide the workers of the cluster among themselves; None if each has a number."""


def trial_config(experiment: Experiment, name: str, changes: Mapping[str, Any]) -> RunConfig:
    """The config of one trial."""
    return apply(experiment.base, {**changes, "name": name}, f"trial {name}")


class TrialHost(OwnProcess):
    """Process of a Tune trial that trains itself."""

    def report(self, row: dict[str, Any]) -> None:
        """Report to Ray Tune. If it stops the trial, this raises `SystemExit`."""
        tune.report(row)


def opening(experiment: Experiment) -> Opening:
    """The reward pools of an experiment, which may still load."""
    return Opening(name for name in experiment.pools.values() if name is not None)


def trains_here(experiment: Experiment, config: RunConfig) -> bool:
    """Test whether a run is trained in its trial's process, see `needs_no_worker`."""
    return experiment.one_machine and needs_no_worker(config)


def run_trial(experiment: Experiment, config: RunConfig, here: bool) -> None:
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
        load_ahead(config)
        evaluate_base_ahead(config, known, pool)
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


class ReleaseTrials(tune.Callback):
    """Gives back what a stopped trial still holds: the placement group of its workers, and its request for nodes.

    Ray Tune stops a trial by killing its process, and Ray keeps a placement group as long as the whole job lives;
    so the workers report theirs, and it is removed here: a little later, because a controller that still lives would
    take the loss of its group for a failure and make another.

    Args:
        trials_folder: Folder of the runs' folders, which are named like Tune's trials.
    """

    def __init__(self, trials_folder: Path) -> None:
        self._trials_folder = trials_folder
        self._due: list[tuple[float, str, RunFolder]] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune when a trial has finished or was stopped."""
        self._add(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune when a trial has failed."""
        self._add(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Ray Tune again and again."""
        now = time.monotonic()
        for due, group, folder in self._due:
            if due <= now:
                remove_group(group)
                cancel_autoscaler_request(folder)
        self._due = [entry for entry in self._due if entry[0] > now]

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Called by Ray Tune after the last trial: nothing of this job needs a group any more."""
        job = ray.get_runtime_context().get_job_id()
        for group, known in placement_group_table().items():
            # The id of a placement group ends with that of its job.
            if group.endswith(job) and known["state"] != "REMOVED":
                remove_group(group)
        for _, _, folder in self._due:
            cancel_autoscaler_request(folder)

    def _add(self, trial: Any) -> None:
        group = (trial.last_result or {}).get("placement_group")
        if group:
            folder = RunFolder(self._trials_folder / str(trial))
            self._due.append((time.monotonic() + GRACE, group, folder))


def remove_group(group: str) -> None:
    """Remove a placement group by its hexadecimal id; one that is gone already is no error."""
    remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))


def trial_folder(experiment: Experiment, name: str) -> RunFolder:
    """Folder that a trial writes into."""
    return RunFolder(Path(experiment.folder) / "trials" / name)


def run_folders(folder: Path) -> list[RunFolder]:
    """Folders of the runs of an experiment that have begun.

    Args:
        folder: Folder of the experiment.
    """
    return [RunFolder(path) for path in sorted((folder / "trials").glob("*")) if path.is_dir()]

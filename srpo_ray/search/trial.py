"""Trials of an experiment: what they share, their configs and folders, and the release of what they hold.

The process of a trial imports this module before its function is called, so no torch is imported here.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup, PlacementGroupID

from srpo_ray.config import RunConfig, apply
from srpo_ray.launch.autoscaler_request import cancel_autoscaler_request
from srpo_ray.launch.capacity import needs_no_worker
from srpo_ray.rewards.pool.opening import Opening
from srpo_ray.runs.folder import RunFolder
from srpo_ray.search.budget_terms import BudgetTerms
from srpo_ray.search.concurrency import RunNeeds

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


def opening(experiment: Experiment) -> Opening:
    """The reward pools of an experiment, which may still load."""
    return Opening(name for name in experiment.pools.values() if name is not None)


def trains_here(experiment: Experiment, config: RunConfig) -> bool:
    """Test whether a run is trained in its trial's process, see `needs_no_worker`."""
    return experiment.one_machine and needs_no_worker(config)


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

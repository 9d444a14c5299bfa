"""One training run of an experiment: in its folder, on its reward pool, reported to Ray Tune."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup, PlacementGroupID

from srpo_ray.config import RunConfig, apply
from srpo_ray.launch.autoscaler_request import cancel_autoscaler_request
from srpo_ray.launch.fit import fit
from srpo_ray.launch.preflight import open_run_folder
from srpo_ray.runs.folder import RunFolder, read_rows

GRACE = 10.0
"""Seconds between the end of a trial and the return of what it holds."""


@dataclass(frozen=True)
class Experiment:
    """Facts that all runs of an experiment share."""

    base: RunConfig
    folder: str
    pool: str | None
    """Name of the reward pool; None scores in the trainers."""
    parent_run: str
    """Id of the MLflow run whose children are the runs."""
    resume: str
    """Command that resumes the experiment."""
    commit: str | None
    """Git commit of the working folder that the experiment was started in."""


def trial_config(experiment: Experiment, name: str, changes: Mapping[str, Any]) -> RunConfig:
    """The config of one trial."""
    return apply(experiment.base, {**changes, "name": name}, f"trial {name}")


def run_trial(experiment: Experiment, config: RunConfig) -> None:
    """Train one trial, or only report it again if its run has finished before.

    Args:
        experiment: Facts that all runs share.
        config: The trial's; its name, which is that of its folder too, survives a restart of the experiment.
    """
    folder = open_run_folder(config, Path(experiment.folder) / "trials" / config.name)
    if folder.finished.exists():
        for row in read_rows(folder.evaluations):
            tune.report(row)
        return
    fit(
        config,
        folder,
        experiment.pool,
        name=config.name,
        commit=experiment.commit,
        parent_run=experiment.parent_run,
        callbacks=(TuneReportCallback(),),
    )


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

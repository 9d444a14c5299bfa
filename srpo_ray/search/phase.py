"""Phases of an experiment in Ray Tune: searched or planned runs, each begun once and resumed."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import ExperimentAnalysis, ProgressReporter, ResultGrid, TuneConfig, Tuner
from ray.tune.search.basic_variant import BasicVariantGenerator

from srpo_ray.config import load_run
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.errors import CommandInterruptedError
from srpo_ray.evaluation.results import Kind, TrialRow
from srpo_ray.live.state import RunState
from srpo_ray.search.budget_change import is_over, phase_name
from srpo_ray.search.budget_gate import BudgetGate
from srpo_ray.search.budget_requests import is_admitted, is_asking
from srpo_ray.search.concurrency import FollowCluster
from srpo_ray.search.progress import AwaitRewards, QuietTrials, RunsReporter
from srpo_ray.search.selection import read_row
from srpo_ray.search.shares import ShareWorkers
from srpo_ray.search.trial import (
    Experiment,
    ReleaseTrials,
    opening,
    trains_here,
    trial_config,
    trial_folder,
)
from srpo_ray.search.trial_function import run_trial
from srpo_ray.tracking.runs import end_run
from srpo_ray.tracking.sinks import open_sinks

ON_HEAD = {"node:__internal_head__": 0.001}
"""Resources of a trial's own process: a share of the head node alone, because Ray Train's workers do the work.

Ray would choose any node. A trial dies with the node of its process, so that may be no spot node; and what the first
trial of a cluster starts for the others would keep a trainer node from ever falling idle.
"""


@dataclass(frozen=True)
class PlannedRun:
    """One run whose config is known before the phase starts."""

    name: str
    kind: Kind
    label: str
    changes: dict[str, Any]
    """Dotted config path -> value, over the experiment's base config."""
    seed: int
    """Seed of the run."""
    start_from: str | None = None
    """Folder of a run of an earlier phase whose checkpoint it continues; None starts from the base model."""
    group: str = ""
    """Name of the arm or ablation that it belongs to."""

    @property
    def config_changes(self) -> dict[str, Any]:
        """All changes to the experiment's base config, with the seed and the run that it continues."""
        start = {} if self.start_from is None else {"start_from": self.start_from}
        return {**self.changes, "seed": self.seed, **start}


def run_planned(
    experiment: Experiment, phase: str, title: str, planned: Sequence[PlannedRun], max_concurrent: int
) -> list[TrialRow]:
    """Train planned runs to their end, several at a time.

    Args:
        experiment: Facts that all runs share.
        phase: Name of this part of the experiment in its folder; a phase that was started continues.
        title: What the runs are, for people.
        planned: The runs.
        max_concurrent: Runs at the same time.

    Returns:
        Rows of the runs that have started, in the order of the planned runs; a budget may have no room for others.

    Raises:
        CommandInterruptedError: If it was stopped by Ctrl-C.
    """
    runs = {run.name: run for run in planned}
    if not runs:
        return []
    configs = {run.name: with_absolute_paths(trial_config(experiment, run.name, run.config_changes)) for run in planned}

    here = all(trains_here(experiment, run) for run in configs.values())

    def train(params: dict[str, Any]) -> None:
        run_trial(experiment, configs[params["run"]], here)

    searcher = BasicVariantGenerator(max_concurrent=max_concurrent)
    config = TuneConfig(search_alg=searcher, trial_name_creator=_named, trial_dirname_creator=_named)
    updates = {name: config.training.num_updates for name, config in configs.items()}

    def describe(name: str, params: Mapping[str, Any]) -> RunState:
        run = runs[params["run"]]
        return RunState(name, updates[name], "waiting", run.kind, run.group, run.label, {}, run.changes, run.seed)

    reporter = RunsReporter(Path(experiment.folder), title, describe, opening(experiment))
    # After a change of the budget, runs that are over need no process to report again.
    left = [name for name in runs if not is_over(Path(experiment.folder), name)]
    reporter.report_ended([(name, {"run": name}) for name in runs if name not in left])
    space = {"run": tune.grid_search(left)}
    results = fit_phase(experiment, phase, train, config, space, reporter, here, len(left)) if left else ()
    # A trial that was refused has no config in its result.
    errors = {result.path.rsplit("/", 1)[-1]: reason(result.error) for result in results}
    rows: dict[str, TrialRow] = {}
    for name, run in runs.items():
        if (name in left and name not in errors) or not is_admitted(Path(experiment.folder), experiment.budget, name):
            continue
        folder = trial_folder(experiment, name)
        row = read_row(folder, run.kind, run.label, run.changes, run.seed, errors.get(name))
        close_tracking(experiment, row)
        rows[name] = row
    # Ray Tune returns the results of a restored phase in another order.
    return [rows[name] for name in runs if name in rows]


def fit_phase(
    experiment: Experiment,
    phase: str,
    trainable: Callable[[dict[str, Any]], None],
    config: TuneConfig,
    space: Mapping[str, Any],
    reporter: ProgressReporter,
    here: bool,
    number: int,
) -> ResultGrid:
    """Run or resume one phase of the experiment in Ray Tune.

    Args:
        experiment: Facts that all runs share.
        phase: Name of the phase in the experiment's folder.
        trainable: Function of a trial.
        config: Settings of Ray Tune.
        space: Values of the trials.
        reporter: Reporter of the trials' states.
        here: Train in the processes of the trials, see `trains_here`; it must be so for all trials of the phase.
        number: Trials of the phase.
    """
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    storage, phase = Path(experiment.folder) / "tune", phase_name(Path(experiment.folder), phase)
    training = experiment.base.training
    bundle = ON_HEAD | training.worker_resources if here else ON_HEAD
    with_resources = tune.with_resources(trainable, tune.PlacementGroupFactory([bundle]))
    if experiment.budget:
        # A run that the budget has no room for ends without a report.
        os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    gate = BudgetGate(Path(experiment.folder), experiment.budget, phase) if experiment.budget else None
    if Tuner.can_restore(str(storage / phase)):
        tuner = _restored(experiment, storage / phase, with_resources, space, gate, here, number)
    else:
        tuner = Tuner(
            with_resources,
            param_space=dict(space),
            # A process that has trained a run has imported and connected all that the next one needs.
            tune_config=replace(config, reuse_actors=here),
            run_config=tune.RunConfig(
                name=phase,
                storage_path=str(storage),
                callbacks=_callbacks(experiment, gate, config.search_alg, number),
                stop=gate,
                progress_reporter=reporter,
                # Ray Train restarts lost workers itself.
                failure_config=tune.FailureConfig(max_failures=training.max_failures if here else 0),
                verbose=1,
            ),
        )
    with own_interrupt():
        results = tuner.fit()
    # Tune itself catches Ctrl-C, saves its state and returns as if all were done.
    if any(not trial.is_finished() for trial in ExperimentAnalysis(str(storage / phase)).trials or []):
        raise CommandInterruptedError(f"stopped; resume with: {experiment.resume}")
    return results


def _restored(
    experiment: Experiment,
    folder: Path,
    trainable: Any,
    space: Mapping[str, Any],
    gate: BudgetGate | None,
    here: bool,
    number: int,
) -> Tuner:
    """Restore a phase from its folder, with what depends on this start of the experiment."""
    tuner = Tuner.restore(str(folder), trainable, resume_unfinished=True, restart_errored=True, param_space=dict(space))
    # Ray has no public way to change it. The phase may have been started on another cluster.
    local: Any = tuner._local_tuner  # noqa: SLF001
    local._tune_config.reuse_actors = here  # noqa: SLF001
    callbacks = _callbacks(experiment, gate, local._tune_config.search_alg, number)  # noqa: SLF001
    # One object is both, which the saved state would make two.
    local._run_config.callbacks, local._run_config.stop = callbacks, gate  # noqa: SLF001
    return tuner


def _callbacks(experiment: Experiment, gate: BudgetGate | None, searcher: Any, number: int) -> list[tune.Callback]:
    """Callbacks of a phase, the gate of the budget before those that follow the cluster."""
    callbacks: list[tune.Callback] = [ReleaseTrials(Path(experiment.folder) / "trials"), QuietTrials()]
    callbacks += [AwaitRewards(opening(experiment))]
    callbacks += [gate] if gate else []
    return callbacks + _cluster_callbacks(experiment, gate, searcher, number)


@contextmanager
def own_interrupt() -> Iterator[None]:
    """Restore the handler of Ctrl-C after the block: Ray Tune leaves its own, which would swallow the next Ctrl-C."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _cluster_callbacks(
    experiment: Experiment, gate: BudgetGate | None, searcher: Any, number: int
) -> list[tune.Callback]:
    """Callbacks by which the trials of a phase follow the cluster: their number, and the workers of each."""
    folder = Path(experiment.folder)

    def waits_for_budget(name: str) -> bool:
        return is_asking(folder, name) and not is_admitted(folder, experiment.budget, name)

    callbacks = list[tune.Callback]()
    if experiment.follows:
        callbacks.append(FollowCluster([searcher, gate] if gate else [searcher], experiment.follows))
    if experiment.shares:
        callbacks.append(ShareWorkers(folder, experiment.shares, number, searcher, waits_for_budget))
    return callbacks


def _named(trial: Any) -> str:
    return trial.config["run"]


def reason(error: BaseException | None) -> str | None:
    """The last line of an error, which says most; None without one."""
    if error is None:
        return None
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def close_tracking(experiment: Experiment, row: TrialRow) -> None:
    """Send what a process that is gone has left, and set its run's final status.

    A finished run has closed its own, unless its process was killed on the way: then its spool is still there.
    """
    folder = trial_folder(experiment, row.name)
    if row.status == "finished" and not folder.tracker_spool.exists():
        return
    status = "FINISHED" if row.status == "finished" else "FAILED" if row.failed else "KILLED"
    sinks = open_sinks(load_run([folder.config]), folder.tracker_record) if folder.tracker_record.exists() else ()
    end_run(folder.tracker_record, folder.tracker_spool, status, sinks)

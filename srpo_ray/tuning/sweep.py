"""A sweep from its file to its report: search, then the best trial again beside its comparisons."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ray import tune
from ray.tune import ExperimentAnalysis, ProgressReporter, ResultGrid, TuneConfig, Tuner

from srpo_ray.config import RunConfig, SweepConfig
from srpo_ray.evaluation.results import TrialRow
from srpo_ray.evaluation.table import param_text, param_titles
from srpo_ray.tracking.run import end_run, flatten, git_commit, start_run
from srpo_ray.training.health import idle_warning
from srpo_ray.training.launch import check_capacity, ray_session, reward_pool, tracking_uri
from srpo_ray.training.preflight import check_inputs
from srpo_ray.training.run_folder import RunFolder
from srpo_ray.tuning.folder import open_sweep_folder
from srpo_ray.tuning.progress import RunsTable
from srpo_ray.tuning.report import publish
from srpo_ray.tuning.rows import choose_best, read_row, untrained_row
from srpo_ray.tuning.space import decode, param_space, scheduler, search_algorithm
from srpo_ray.tuning.trial import ReleaseTrials, Study, run_trial, trial_folder

SEARCH, FOLLOW_UP = "search", "follow_up"


class SweepInterruptedError(RuntimeError):
    """The sweep was stopped and can be resumed; the message says how."""


@dataclass(frozen=True)
class FollowUp:
    """One run after the search."""

    name: str
    kind: Literal["repeat", "ablation"]
    label: str
    changes: dict[str, Any]


def run_sweep(sweep: SweepConfig, base: RunConfig, address: str | None, command: str) -> Path:
    """Run a sweep, or go on with the one in the same folder.

    Args:
        sweep: Search space, searcher, comparisons.
        base: Config that the trials start from.
        address: Ray cluster to use; None takes `RAY_ADDRESS` or starts a local one.
        command: What the person typed, for the report.

    Returns:
        Path of the HTML report.

    Raises:
        ValueError: If an input cannot be used, or no trial finished.
        SweepInterruptedError: If it was stopped by Ctrl-C.
    """
    check_inputs(base)
    folder = open_sweep_folder(sweep, base)
    with ray_session(address):
        check_capacity(base)
        with reward_pool(base, f"rewards_{sweep.name}") as pool:
            study = Study(base, str(folder), pool, _start_parent_run(sweep, base, folder))
            trials = _search(study, sweep)
            best, note = choose_best(trials, sweep)
            rows = [*trials, untrained_row(best), *_follow_up(study, sweep, best)]
    warnings = [idle_warning(trial_folder(study, row.name)) for row in rows]
    return publish(study, sweep, rows, best, [text for text in (note, *warnings) if text], command)


def _start_parent_run(sweep: SweepConfig, base: RunConfig, folder: Path) -> str:
    return start_run(
        tracking_uri(base),
        base.tracking.experiment,
        sweep.name,
        tags={"git_commit": git_commit(Path.cwd()) or "unknown", "run_dir": str(folder)},
        params=flatten(sweep.model_dump(mode="json", exclude={"space", "comparisons"})),
        record=RunFolder(folder).tracker_record,
    )


def _search(study: Study, sweep: SweepConfig) -> list[TrialRow]:
    def search(params: dict[str, Any]) -> None:
        run_trial(study, tune.get_context().get_trial_name(), decode(params))

    def settings(params: Mapping[str, Any]) -> dict[str, str]:
        titles = param_titles(list(params))
        return {titles[path]: param_text(value) for path, value in decode(params).items()}

    config = TuneConfig(
        metric=sweep.objective,
        mode=sweep.mode,
        num_samples=sweep.num_samples,
        search_alg=search_algorithm(sweep),
        scheduler=scheduler(sweep, study.base.training.num_updates),
        trial_name_creator=_numbered,
        trial_dirname_creator=_numbered,
    )
    reporter = _reporter(study, sweep, "search", settings)
    results = _fit(study, SEARCH, search, config, param_space(sweep.space), reporter)
    rows = []
    for result in results:
        name, changes = result.path.rsplit("/", 1)[-1], decode(result.config or {})
        label = ", ".join(f"{title} {text}" for title, text in settings(result.config or {}).items())
        rows.append(
            read_row(trial_folder(study, name), "trial", label, changes, study.base.seed, _reason(result.error))
        )
    for row in rows:
        _close_tracking(study, row)
    return rows


def _follow_up(study: Study, sweep: SweepConfig, best: TrialRow) -> list[TrialRow]:
    """The best trial with other seeds, and its comparisons, trained to the end."""
    runs = {run.name: run for run in follow_ups(sweep, best)}
    if not runs:
        return []

    def follow_up(params: dict[str, Any]) -> None:
        run_trial(study, params["run"], runs[params["run"]].changes)

    config = TuneConfig(
        max_concurrent_trials=sweep.max_concurrent_trials,
        trial_name_creator=_named,
        trial_dirname_creator=_named,
    )
    reporter = _reporter(study, sweep, "the best again, and its comparisons", lambda _: {})
    results = _fit(study, FOLLOW_UP, follow_up, config, {"run": tune.grid_search(list(runs))}, reporter)
    rows = []
    for result in results:
        run = runs[(result.config or {})["run"]]
        seed = int(run.changes.get("seed", study.base.seed))
        error = _reason(result.error)
        row = read_row(trial_folder(study, run.name), run.kind, run.label, run.changes, seed, error)
        _close_tracking(study, row)
        rows.append(row)
    return rows


def follow_ups(sweep: SweepConfig, best: TrialRow) -> list[FollowUp]:
    """What is trained once the best trial is known."""
    changes = dict(best.params)
    runs = [
        FollowUp(f"seed_{seed}", "repeat", f"best, seed {seed}", {**changes, "seed": seed})
        for seed in sweep.repeat_seeds
    ]
    for comparison in sweep.comparisons:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", comparison.name).strip("_.-")
        runs.append(FollowUp(name, "ablation", comparison.name, {**changes, **comparison.set}))
    return runs


def _fit(
    study: Study,
    phase: str,
    trainable: Callable[[dict[str, Any]], None],
    config: TuneConfig,
    space: Mapping[str, Any],
    reporter: ProgressReporter,
) -> ResultGrid:
    """Run or go on with one phase of the study in Ray Tune."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    storage = Path(study.folder) / "tune"
    with_resources = tune.with_resources(trainable, {"cpu": 0.1})
    if Tuner.can_restore(str(storage / phase)):
        tuner = Tuner.restore(
            str(storage / phase), with_resources, resume_unfinished=True, restart_errored=True, param_space=dict(space)
        )
    else:
        tuner = Tuner(
            with_resources,
            param_space=dict(space),
            tune_config=config,
            run_config=tune.RunConfig(
                name=phase,
                storage_path=str(storage),
                callbacks=[ReleaseTrials()],
                progress_reporter=reporter,
                verbose=1,
            ),
        )
    results = tuner.fit()
    # Tune itself catches Ctrl-C, saves its state and returns as if all were done.
    if any(not trial.is_finished() for trial in ExperimentAnalysis(str(storage / phase)).trials or []):
        raise SweepInterruptedError(f"stopped; go on with: python experiments/sweep.py --resume {study.folder}")
    return results


def _reporter(
    study: Study, sweep: SweepConfig, title: str, settings: Callable[[Mapping[str, Any]], Mapping[str, str]]
) -> RunsTable:
    folder = Path(study.folder) / "trials"
    return RunsTable(f"{sweep.name}: {title}", folder, sweep.objective, study.base.training.num_updates, settings)


def _numbered(trial: Any) -> str:
    """`trial_3`: both of Tune's ways of adding trials begin the tag with a count that a resumed search goes on with."""
    return f"trial_{trial.experiment_tag.partition('_')[0]}"


def _named(trial: Any) -> str:
    return trial.config["run"]


def _reason(error: BaseException | None) -> str | None:
    if error is None:
        return None
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _close_tracking(study: Study, row: TrialRow) -> None:
    """A stopped trial's process is gone: send what it left and set its final status."""
    if not row.ended:
        folder = trial_folder(study, row.name)
        end_run(folder.tracker_record, folder.tracker_spool, "FAILED" if row.failed else "KILLED")

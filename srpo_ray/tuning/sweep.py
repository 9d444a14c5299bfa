"""A sweep from its file to its report: search, then the best trial again beside its comparisons."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import TuneConfig

from srpo_ray.config import RunConfig, SweepConfig, apply
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.config.base import folder_name
from srpo_ray.evaluation.numbers import param_text, param_titles
from srpo_ray.evaluation.results import TrialRow
from srpo_ray.launch.preflight import check_inputs
from srpo_ray.launch.session import ray_session
from srpo_ray.launch.train import check_cluster, reward_pool
from srpo_ray.runs.warnings import idle_warning
from srpo_ray.tracking.runs import flatten, git_commit
from srpo_ray.tuning.folder import first_command, open_study_folder
from srpo_ray.tuning.report import publish
from srpo_ray.tuning.rows import baseline_row, choose_best, read_row
from srpo_ray.tuning.runs import (
    PlannedRun,
    close_tracking,
    fit_phase,
    reason,
    run_planned,
    runs_table,
    start_parent_run,
)
from srpo_ray.tuning.space import decode, param_space, scheduler, search_algorithm
from srpo_ray.tuning.trial import Study, run_trial, trial_config, trial_folder

SEARCH, FOLLOW_UP = "search", "follow_up"


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
        StudyInterruptedError: If it was stopped by Ctrl-C.
    """
    compared = [apply(base, comparison.set) for comparison in sweep.comparisons]
    for config in (base, *compared):
        check_inputs(config)
    searched = [apply(base, {path: value}) for path, space in sweep.space.items() for value in space.choice or ()]
    base = with_absolute_paths(base)
    folder = open_study_folder(sweep, base, [with_absolute_paths(config) for config in (*compared, *searched)])
    command = first_command(folder, command)
    with ray_session(address):
        check_cluster(base)
        with reward_pool(base, f"rewards_{sweep.name}") as pool:
            resume = f"python experiments/sweep.py --resume {folder}"
            params = flatten(sweep.model_dump(mode="json", exclude={"space", "comparisons"}))
            parent_run = start_parent_run(base, sweep.name, folder, params)
            study = Study(base, str(folder), pool, parent_run, resume, git_commit(Path.cwd()))
            trials = _search(study, sweep)
            best, note = choose_best(trials, sweep)
            again = run_planned(
                study,
                FOLLOW_UP,
                "the best again, and its comparisons",
                follow_ups(sweep, best),
                sweep.max_concurrent_trials,
                sweep.objective,
            )
    rows = [*trials, baseline_row(best), *again]
    warnings = [idle_warning(trial_folder(study, row.name)) for row in rows]
    return publish(study, sweep, rows, best, [text for text in (note, *warnings) if text], command)


def _search(study: Study, sweep: SweepConfig) -> list[TrialRow]:
    def search(params: dict[str, Any]) -> None:
        run_trial(study, trial_config(study, str(tune.get_context().get_trial_name()), decode(params)))

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
    updates = study.base.training.num_updates
    reporter = runs_table(study, "search", sweep.objective, lambda _: updates, settings)
    results = fit_phase(study, SEARCH, search, config, param_space(sweep.space), reporter)
    rows = []
    for result in results:
        name, changes = result.path.rsplit("/", 1)[-1], decode(result.config or {})
        label = ", ".join(f"{title} {text}" for title, text in settings(result.config or {}).items())
        rows.append(read_row(trial_folder(study, name), "trial", label, changes, study.base.seed, reason(result.error)))
    for row in rows:
        close_tracking(study, row)
    return rows


def follow_ups(sweep: SweepConfig, best: TrialRow) -> list[PlannedRun]:
    """What is trained once the best trial is known."""
    changes = dict(best.params)
    runs = [
        PlannedRun(f"seed_{seed}", "repeat", f"best, seed {seed}", {**changes, "seed": seed})
        for seed in sweep.repeat_seeds
    ]
    runs += [
        PlannedRun(folder_name(comparison.name), "ablation", comparison.name, {**changes, **comparison.set})
        for comparison in sweep.comparisons
    ]
    return runs


def _numbered(trial: Any) -> str:
    """`trial_3`: both of Tune's ways of adding trials begin the tag with a count that a resumed search goes on with."""
    return f"trial_{trial.experiment_tag.partition('_')[0]}"

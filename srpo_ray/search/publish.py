"""Publish an experiment: tables, HTML report, config of the best arm; on disk, on the terminal and in MLflow."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

import torch

from srpo_ray.config import ExperimentConfig, to_yaml
from srpo_ray.config.scheduler import UPDATES
from srpo_ray.data.texts import read_texts
from srpo_ray.evaluation.captions import caption_of_row
from srpo_ray.evaluation.comparison import compute_notes
from srpo_ray.evaluation.gallery import method_grid, save_png
from srpo_ray.evaluation.ranking import metric_names
from srpo_ray.evaluation.results import Arm, Results, Search, TrialRow
from srpo_ray.files import write_text
from srpo_ray.reports.experiment import experiment_report
from srpo_ray.reports.files import write_report
from srpo_ray.reports.terminal import print_report
from srpo_ray.runs.folder import RunFolder, load_images
from srpo_ray.runs.inputs import require_same_inputs, text_hashes
from srpo_ray.runs.warnings import update_warnings
from srpo_ray.search.arms import arm_changes
from srpo_ray.search.budget_records import budget_notes, budget_uses
from srpo_ray.search.selection import baseline_row, best_arm
from srpo_ray.search.trial import Experiment, trial_config, trial_folder
from srpo_ray.tracking.runs import git_commit, tracking_uri
from srpo_ray.tracking.tracker import Tracker
from srpo_ray.votes.publish import experiment_votes


def publish(
    experiment: Experiment,
    config: ExperimentConfig,
    searches: Sequence[Search],
    arms: Sequence[Arm],
    notes: Sequence[str],
    command: str,
) -> Path:
    """Print the tables, write report, table files and best config into the experiment's folder, log them.

    Args:
        experiment: Facts that all runs share.
        config: The experiment.
        searches: Trials of the searched arms.
        arms: Runs of all arms and ablations.
        notes: Notes of the search for the reader.
        command: Command that began the experiment.

    Returns:
        Path of the HTML report.
    """
    folder, best = Path(experiment.folder), best_arm(config, arms, searches)
    best_config = to_yaml(
        trial_config(experiment, f"{config.name}_best", arm_changes(config, config.arm(best), searches))
    )
    chosen = _write_best(folder, config, best, best_config, arms, searches)
    notes_on_budget = budget_notes(config, searches, arms)
    all_notes = [*notes, *schedule_notes(config, best, searches), *notes_on_budget]
    results = _results(experiment, config, searches, arms, best_config, all_notes, command)
    votes, vote_metrics = experiment_votes(folder)
    report = experiment_report(results, None if results.is_sweep else _images(experiment, arms), votes)
    print_report(report)
    print("".join(f"{note}\n" for note in notes_on_budget), end="")
    path = write_report(folder, report)
    files = [path, *chosen, *(folder / name for name in report.files)]
    log_results(experiment, files, _summary_metrics(results, best) | vote_metrics)
    return path


def _write_best(
    folder: Path, config: ExperimentConfig, best: str, best_config: str, arms: Sequence[Arm], searches: Sequence[Search]
) -> list[Path]:
    """Write the config of the best arm, its best run, and the experiment that trains found schedules.

    Returns:
        Paths of the files to log to MLflow: config, and schedule if there is one.
    """
    files = [folder / "best.yaml"]
    # Before the schedule, so that an error there leaves the config on disk.
    write_text(files[0], best_config)
    schedule = schedule_experiment(config, searches)
    if schedule is not None:
        files.append(folder / "schedule.yaml")
        write_text(files[-1], to_yaml(schedule))
    _write_best_run(folder, config, best, arms, searches)
    return files


def _results(
    experiment: Experiment,
    config: ExperimentConfig,
    searches: Sequence[Search],
    arms: Sequence[Arm],
    best_config: str,
    notes: Sequence[str],
    command: str,
) -> Results:
    """Gather what the report shows; the notes get those on compute, runs that did not end, and warnings of updates."""
    rows = [row for group in (*searches, *arms) for row in group.rows]
    warnings = [text for row in rows for text in update_warnings(trial_folder(experiment, row.name))]
    reference = config.reference.name
    return Results(
        title=config.name,
        objective=config.objective,
        mode=config.mode,
        objectives=config.objectives,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command,
        commit=git_commit(Path.cwd()),
        hardware=hardware(),
        reference=reference,
        baseline_row=_baseline(reference, searches, arms),
        arms=arms,
        searches=searches,
        best_config_yaml=best_config,
        notes=[*notes, *compute_notes(arms, reference), *failures(arms), *warnings],
        target_share=config.target_share,
        equal_gain=config.equal_gain,
        budget=budget_uses(Path(experiment.folder), experiment.budget) if experiment.budget else (),
    )


def schedule_experiment(config: ExperimentConfig, searches: Sequence[Search]) -> ExperimentConfig | None:
    """Experiment that trains the schedules which population based training found, with the seeds of this one.

    Returns:
        One arm for each such search; None without any.
    """
    arms = [
        {
            "name": search.arm,
            # A budget may have ended the search before its last round.
            "set": {**config.changes(config.arm(search.arm)), UPDATES: search.schedule[-1][0]}
            if len(search.rounds) < search.num_parts
            else config.changes(config.arm(search.arm)),
            "schedule": [{"updates": updates, "set": dict(values)} for updates, values in search.schedule],
            "seeds": config.arm(search.arm).seeds,
        }
        for search in searches
        if search.rounds
    ]
    if not arms:
        return None
    values = config.model_dump(mode="json", include={"objective", "mode", "max_fall", "equal_gain"})
    # The base config of this experiment is in its folder.
    own = {"name": f"{config.name}_schedule", "base": "base.yaml", "arms": arms, "seeds": config.seeds or (1, 2, 3)}
    return ExperimentConfig.model_validate({**values, **own})


def schedule_notes(config: ExperimentConfig, best: str, searches: Sequence[Search]) -> list[str]:
    """Note that best.yaml cannot contain the best arm's schedule."""
    origin = config.origin(config.arm(best))
    if not origin.schedule and not any(search.rounds for search in searches if search.arm == origin.name):
        return []
    file = "the experiment's file" if origin.schedule else "schedule.yaml"
    return [f"The values of {best} follow a schedule, which is in {file}. best.yaml has the values of its last round."]


def _write_best_run(
    folder: Path, config: ExperimentConfig, best: str, arms: Sequence[Arm], searches: Sequence[Search]
) -> None:
    """Write the name of the best arm's best run and its objective to `best_run.json`; nothing without such a run.

    It is the best of the runs with several seeds, or else the chosen trial.
    """
    ended = [row for arm in arms if arm.name == best for row in arm.ended]
    chosen = [row for search in searches for row in search.rows if (search.arm, search.chosen) == (best, row.name)]
    sign = 1 if config.mode == "max" else -1
    values = {row.name: value for row in ended or chosen if (value := row.value(config.objective)) is not None}
    if values:
        name = max(values, key=lambda name: sign * values[name])
        found = {"run": name, "arm": best, "objective": config.objective, "value": values[name]}
        write_text(folder / "best_run.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def _baseline(reference: str, searches: Sequence[Search], arms: Sequence[Arm]) -> TrialRow | None:
    """The evaluation at update 0 of the first run that has one, runs of the reference arm first."""
    groups = sorted(arms, key=lambda arm: arm.name != reference)
    chosen = [row for search in searches for row in search.rows if row.name == search.chosen]
    return baseline_row([*(row for arm in groups for row in arm.rows), *chosen])


def _summary_metrics(results: Results, best: str) -> dict[str, float]:
    """Metrics of the best arm for its MLflow run: means over seeds, or those of the chosen trial; and of the tests."""
    rows = results.arm(best).ended or [
        row for search in results.searches for row in search.rows if (search.arm, search.chosen) == (best, row.name)
    ]
    names = [name for name in metric_names(results) if all(row.value(name) is not None for row in rows)]
    found = {f"best/{name}": fmean(row.value(name) or 0.0 for row in rows) for name in names if rows}
    tested = [row.test[-1] for row in rows if row.test]
    if not tested or len(tested) < len(rows):
        return found
    names = [name for name in tested[0] if name != "update"]
    return found | {f"best/test/{name}": fmean(test[name] for test in tested) for name in names}


def failures(arms: Sequence[Arm]) -> list[str]:
    """Notes on runs of arms that did not end."""
    rows = [row for arm in arms for row in arm.rows]
    return [f"{row.name} is in no mean over seeds: {row.status}." for row in rows if not row.ended]


def _images(experiment: Experiment, arms: Sequence[Arm]) -> Path | None:
    """Images of each arm for the same prompts and noise, from its first seed; None without any.

    Raises:
        ValueError: If the evaluation prompts have changed since the experiment began, so that they are no captions.
    """
    first = {arm.name: arm.rows[0] for arm in arms if arm.kind == "method" and arm.rows and arm.rows[0].ended}
    if not first:
        return None
    folders = {name: trial_folder(experiment, row.name) for name, row in first.items()}
    base = load_images(next(iter(folders.values())).base_images)
    columns = {"baseline": base} | {name: load_images(folder.tuned_images) for name, folder in folders.items()}
    texts = read_texts(experiment.base)
    cure = "start the experiment again under another name"
    require_same_inputs(RunFolder(experiment.folder).inputs, text_hashes(experiment.base, texts), cure)
    stacked = {name: torch.stack(list(images.values())) for name, images in columns.items()}
    rows = texts.validation
    captions = [caption_of_row(rows.prompts[index], rows.conditioning[index]) for index in base]
    grid = method_grid(stacked, captions)
    return save_png(grid, Path(experiment.folder) / "images" / "arms.png")


def hardware() -> str:
    """The machine of the driver, in a few words. This initialises CUDA, which takes memory of each GPU."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join([processor(), *gpus])


def processor() -> str:
    """The CPU cores of the driver's machine."""
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


def log_results(experiment: Experiment, files: Sequence[Path], metrics: Mapping[str, float]) -> None:
    """Log the results of an experiment to its MLflow run, and close that run."""
    base, spool = experiment.base, RunFolder(experiment.folder).tracker_spool
    tracker = Tracker(tracking_uri(base), experiment.parent_run, spool, base.tracking.flush_interval_s)
    if metrics:
        tracker.log_metrics(metrics, 0)
    for file in files:
        tracker.log_text(file.read_text(encoding="utf-8"), file.name)
    tracker.close("FINISHED")

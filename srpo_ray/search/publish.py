"""Publish an experiment: tables, HTML report, config of the best arm; on disk, on the terminal and in MLflow."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from srpo_ray.config import ExperimentConfig, to_yaml
from srpo_ray.data.texts import read_texts
from srpo_ray.evaluation.comparison import CALLS, Arm, StudyReport, Tuned
from srpo_ray.evaluation.gallery import method_grid, save_png
from srpo_ray.evaluation.results import TRAINED_GAIN, SweepReport, TrialRow
from srpo_ray.files import write_text
from srpo_ray.reports.comparison import EQUAL, comparison_report
from srpo_ray.reports.files import write_report
from srpo_ray.reports.sweep import sweep_report
from srpo_ray.reports.terminal import print_report
from srpo_ray.search.arms import arm_changes
from srpo_ray.search.selection import best_arm, untrained_row
from srpo_ray.search.trial import Experiment, trial_config, trial_folder
from srpo_ray.tracking.run import git_commit, tracking_uri
from srpo_ray.tracking.tracker import Tracker
from srpo_ray.training.health import idle_warning
from srpo_ray.training.inputs import require_same_inputs, text_hashes
from srpo_ray.training.run_folder import RunFolder, load_pictures


def publish(
    experiment: Experiment,
    config: ExperimentConfig,
    searches: Sequence[Tuned],
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
        notes: Remarks of the search for the reader.
        command: Command that began the experiment.

    Returns:
        Path of the HTML report.
    """
    folder = Path(experiment.folder)
    rows = [row for group in (*searches, *arms) for row in group.rows]
    warnings = [text for row in rows if (text := idle_warning(trial_folder(experiment, row.name)))]
    best = best_arm(config, arms, searches)
    best_config = trial_config(experiment, f"{config.name}_best", arm_changes(config, config.arm(best), searches))
    write_text(folder / "best.yaml", to_yaml(best_config))
    about = {
        "title": config.name,
        "objective": config.objective,
        "mode": config.mode,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "commit": git_commit(Path.cwd()),
        "hardware": hardware(),
    }
    if len(config.arms) == 1 and config.arms[0].space:
        return _publish_sweep(experiment, searches[0], arms, [*notes, *warnings], about)
    return _publish_comparison(experiment, config, searches, arms, [*notes, *warnings], about)


def _publish_sweep(
    experiment: Experiment, search: Tuned, arms: Sequence[Arm], notes: Sequence[str], about: Mapping[str, Any]
) -> Path:
    folder = Path(experiment.folder)
    best = next(row for row in search.rows if row.name == search.chosen)
    trained = [row for arm in arms for row in arm.rows]
    rows = [*search.rows, untrained_row([*trained, best]), *trained]
    best_yaml = (folder / "best.yaml").read_text(encoding="utf-8")
    report = SweepReport(
        **about, reward=TRAINED_GAIN, rows=rows, best=best.name, best_config_yaml=best_yaml, notes=notes
    )
    page = sweep_report(report)
    print_report(page)
    path = write_report(folder, page)
    files = [path, folder / "best.yaml", folder / "trials.csv", folder / "trials.json"]
    log_results(experiment, files, {f"best/{name}": value for name, value in best.judged.items() if name != "step"})
    return path


def _publish_comparison(
    experiment: Experiment,
    config: ExperimentConfig,
    searches: Sequence[Tuned],
    arms: Sequence[Arm],
    notes: Sequence[str],
    about: Mapping[str, Any],
) -> Path:
    folder, reference = Path(experiment.folder), config.reference.name
    rows = [row for arm in arms for row in arm.rows]
    untrained = untrained_row([*rows, *(row for search in searches for row in search.rows)])
    report = StudyReport(
        **about,
        ablated=reference,
        target_share=config.target_share,
        arms=[Arm("untrained", "base", {}, [untrained]), *arms],
        tuning=searches,
        notes=[*notes, *compute_notes(arms, reference), *failures(rows)],
    )
    page = comparison_report(report, _pictures(experiment, arms))
    print_report(page)
    path = write_report(folder, page)
    log_results(experiment, [path, folder / "best.yaml", folder / "table.csv", folder / "study.json"], {})
    return path


def compute_notes(arms: Sequence[Arm], reference: str) -> list[str]:
    """Notes on arms that were trained with clearly more or less compute than the reference arm."""
    means = {arm.name: spent.mean for arm in arms if arm.kind == "method" and (spent := arm.over_seeds(CALLS))}
    expected = means.get(reference)
    if expected is None:
        return []
    return [
        f"{name} was trained with {calls / expected:.2f} times the velocity evaluations of {reference}."
        for name, calls in means.items()
        if abs(calls / expected - 1) > EQUAL
    ]


def failures(rows: Sequence[TrialRow]) -> list[str]:
    """Notes on runs that did not end; no mean over seeds counts them."""
    return [f"{row.name} is in no figure: {row.status}." for row in rows if not row.ended]


def _pictures(experiment: Experiment, arms: Sequence[Arm]) -> Path | None:
    """Images of each arm for the same prompts and noise, from its first seed; None without any.

    Raises:
        ValueError: If the evaluation prompts have changed since the experiment began, so that they are no captions.
    """
    first = {arm.name: arm.rows[0] for arm in arms if arm.kind == "method" and arm.rows and arm.rows[0].ended}
    if not first:
        return None
    folders = {name: trial_folder(experiment, row.name) for name, row in first.items()}
    base = load_pictures(next(iter(folders.values())).base_pictures)
    columns = {"untrained": base} | {name: load_pictures(folder.tuned_pictures) for name, folder in folders.items()}
    texts = read_texts(experiment.base)
    cure = "start the experiment again under another name"
    require_same_inputs(RunFolder(experiment.folder).inputs, text_hashes(experiment.base, texts), cure)
    stacked = {name: torch.stack(list(pictures.values())) for name, pictures in columns.items()}
    grid = method_grid(stacked, [texts.judged[index] for index in base])
    return save_png(grid, Path(experiment.folder) / "pictures" / "methods.png")


def hardware() -> str:
    """The machine of the driver, in a few words."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join([f"{os.cpu_count()} CPU cores ({platform.machine()})", *gpus])


def log_results(experiment: Experiment, files: Sequence[Path], metrics: Mapping[str, float]) -> None:
    """Log the results of an experiment to its MLflow run, and close that run."""
    base, spool = experiment.base, RunFolder(experiment.folder).tracker_spool
    tracker = Tracker(tracking_uri(base), experiment.parent_run, spool, base.tracking.flush_interval_s)
    if metrics:
        tracker.log_metrics(metrics, 0)
    for file in files:
        tracker.log_text(file.read_text(encoding="utf-8"), file.name)
    tracker.close("FINISHED")

"""What a person gets from a sweep: table, HTML report, the best config, and the same in MLflow."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from srpo_ray.config import SweepConfig, to_yaml
from srpo_ray.evaluation.results import TRAINED_GAIN, SweepReport, TrialRow
from srpo_ray.files import write_text
from srpo_ray.reports.files import write_report
from srpo_ray.reports.sweep import sweep_report
from srpo_ray.reports.terminal import print_report
from srpo_ray.runs.folder import RunFolder
from srpo_ray.tracking.runs import git_commit, tracking_uri
from srpo_ray.tracking.tracker import Tracker
from srpo_ray.tuning.trial import Study, trial_config


def publish(
    study: Study, sweep: SweepConfig, rows: list[TrialRow], best: TrialRow, notes: list[str], command: str
) -> Path:
    """Print the ranked table, write report, table files and best config into the sweep's folder, log them.

    Returns:
        Path of the HTML report.
    """
    folder = Path(study.folder)
    best_config = trial_config(study, f"{sweep.name}_best", best.params)
    best_yaml = to_yaml(best_config)
    write_text(folder / "best.yaml", best_yaml)
    report = SweepReport(
        title=sweep.name,
        objective=sweep.objective,
        reward=TRAINED_GAIN,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command,
        commit=git_commit(Path.cwd()),
        hardware=hardware(),
        rows=rows,
        best=best.name,
        best_config_yaml=best_yaml,
        notes=notes,
        mode=sweep.mode,
    )
    page = sweep_report(report)
    print_report(page)
    path = write_report(folder, page)
    best_row = report.best_row
    evaluated = best_row.evaluated if best_row else {}
    files = [path, folder / "best.yaml", folder / "trials.csv", folder / "trials.json"]
    log_results(study, files, {f"best/{name}": value for name, value in evaluated.items() if name != "update"})
    return path


def hardware() -> str:
    """The machine of the driver, in a few words."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join([f"{os.cpu_count()} CPU cores ({platform.machine()})", *gpus])


def log_results(study: Study, files: Sequence[Path], metrics: Mapping[str, float]) -> None:
    """Log what a study ended with to its MLflow run, and close that."""
    spool = RunFolder(study.folder).tracker_spool
    tracker = Tracker(tracking_uri(study.base), study.parent_run, spool, study.base.tracking.flush_interval_s)
    if metrics:
        tracker.log_metrics(metrics, 0)
    for file in files:
        tracker.log_text(file.read_text(encoding="utf-8"), file.name)
    tracker.close("FINISHED")

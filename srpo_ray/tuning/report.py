"""What a person gets from a sweep: table, HTML report, the best config, and the same in MLflow."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console

from srpo_ray.config import SweepConfig, to_yaml
from srpo_ray.evaluation.report import write_report
from srpo_ray.evaluation.results import SweepReport, TrialRow
from srpo_ray.evaluation.table import ranked_table, write_csv, write_json
from srpo_ray.files import write_text
from srpo_ray.tracking.run import git_commit
from srpo_ray.tracking.tracker import Tracker
from srpo_ray.training.launch import tracking_uri
from srpo_ray.training.run_folder import RunFolder
from srpo_ray.tuning.trial import Study, trial_config

TRAINED_REWARD = "reward/total"


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
        reward=TRAINED_REWARD,
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
    console = Console(width=None if Console().is_terminal else 120)
    console.print(ranked_table(report))
    write_csv(folder / "trials.csv", report)
    write_json(folder / "trials.json", report)
    path = write_report(folder / "report.html", report)
    _log(study, report, path, folder)
    return path


def hardware() -> str:
    """The machine of the driver, in a few words."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join([f"{os.cpu_count()} CPU cores ({platform.machine()})", *gpus])


def _log(study: Study, report: SweepReport, path: Path, folder: Path) -> None:
    run_folder = RunFolder(folder)
    uri = tracking_uri(study.base)
    tracker = Tracker(uri, study.parent_run, run_folder.tracker_spool, study.base.tracking.flush_interval_s)
    best = report.best_row
    if best and best.history:
        last = best.history[-1]
        tracker.log_metrics({f"best/{name}": value for name, value in last.items() if name != "step"}, 0)
    tracker.log_text(report.best_config_yaml, "best.yaml")
    for file in (path, folder / "trials.csv", folder / "trials.json"):
        tracker.log_text(file.read_text(), file.name)
    tracker.close("FINISHED")

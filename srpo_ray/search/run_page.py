"""Page of a single run in its folder, rewritten while the run is in progress."""

from datetime import UTC, datetime
from pathlib import Path

from srpo_ray.config import load_run
from srpo_ray.files import write_text
from srpo_ray.live.state import Progress
from srpo_ray.reports.html import page_text
from srpo_ray.reports.live import live_report
from srpo_ray.reports.run import run_report
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.runs.warnings import problems, update_warnings
from srpo_ray.search.selection import read_row

PAGE = "report.html"
"""Name of the page in the folder of a run or an experiment."""


def write_run_page(folder: RunFolder, progress: Progress) -> Path:
    """Write the page of a run from the rows that exist so far, and return its path.

    Args:
        folder: Folder of the run.
        progress: State of the run. The page of a finished run is final.

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If the config in the folder is damaged.
    """
    (run,) = progress.runs
    row = read_row(folder, "repeat", run.label, {}, run.seed, run.error or None)
    updates = read_rows(folder.updates)
    report = run_report(
        row,
        progress.metrics,
        updates,
        folder.config.read_text(encoding="utf-8") if folder.config.exists() else "",
        [*update_warnings(folder), *problems(folder)],
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        _contrast(folder),
    )
    if progress.state != "finished":
        report = live_report(report, progress, {run.name: updates[-1]["update"] if updates else 0})
    return write_text(folder.path / PAGE, page_text(report))


def _contrast(folder: RunFolder) -> str:
    """Contrast that the evaluations of a run's trained weights sample with; empty without one."""
    if not folder.config.exists():
        return ""
    evaluation = load_run([folder.config]).evaluation
    if evaluation.contrast is None:
        return ""
    return f"evaluation.rl_guidance={evaluation.rl_guidance} in contrast with {evaluation.contrast_name}"

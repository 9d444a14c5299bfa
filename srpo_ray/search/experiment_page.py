"""Page of an experiment in progress: its report, of the runs that exist so far."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from srpo_ray.config import ExperimentConfig
from srpo_ray.config.arm import Ablation
from srpo_ray.config.arm import Arm as ArmConfig
from srpo_ray.evaluation.numbers import number, signed
from srpo_ray.evaluation.results import Arm, Results, Search, TrialRow
from srpo_ray.files import write_text
from srpo_ray.live.state import ENDED, UNBEGUN, Progress, RunState
from srpo_ray.live.view import run_folder, tail_rows
from srpo_ray.reports.experiment import experiment_report
from srpo_ray.reports.html import page_text
from srpo_ray.reports.live import live_report
from srpo_ray.search.publish import failures, processor
from srpo_ray.search.run_page import PAGE
from srpo_ray.search.selection import baseline_row, best_of, read_row


class ExperimentPage:
    """Writer of the page of an experiment in progress. A run that has ended is read once.

    Args:
        folder: Folder of the experiment.
        config: The experiment.
        command: Command that began it.
        commit: Git commit of the working folder; None outside a repository.
    """

    def __init__(self, folder: Path, config: ExperimentConfig, command: str, commit: str | None) -> None:
        self._folder = folder
        self._config = config
        self._command = command
        self._commit = commit
        self._ended: dict[str, TrialRow] = {}

    def __call__(self, progress: Progress) -> Path:
        """Write the page, and return its path.

        Args:
            progress: State of the experiment.

        Raises:
            OSError: If a file cannot be read or written.
            ValueError: If a config in a run's folder is damaged.
        """
        begun = [run for run in progress.runs if run.status not in UNBEGUN]
        rows = {run.name: self._row(progress, run) for run in begun}
        updates = {run.name: self._update(progress, run, rows[run.name]) for run in begun}
        results = self._results(begun, rows)
        report = live_report(experiment_report(results), progress, updates, best_so_far(results, self._config))
        return write_text(self._folder / PAGE, page_text(report))

    def _row(self, progress: Progress, run: RunState) -> TrialRow:
        known = self._ended.get(run.name)
        if known is not None:
            return known
        folder = run_folder(self._folder, progress, run)
        row = read_row(folder, run.kind, run.label, run.changes, run.seed, run.error or None)
        if run.status in ENDED:
            self._ended[run.name] = row
            return row
        return replace(row, status=run.status)

    def _update(self, progress: Progress, run: RunState, row: TrialRow) -> int:
        if run.status in ENDED:
            return int(row.evaluated.get("update", 0))
        rows = tail_rows(run_folder(self._folder, progress, run).updates)
        return rows[-1]["update"] if rows else 0

    def _results(self, begun: Sequence[RunState], rows: dict[str, TrialRow]) -> Results:
        config = self._config

        def of(part: ArmConfig | Ablation, *kinds: str) -> list[TrialRow]:
            return [rows[run.name] for run in begun if run.group == part.name and run.kind in kinds]

        reference = config.changes(config.reference)
        methods = [Arm(arm.name, "method", config.changes(arm), of(arm, "repeat")) for arm in config.arms]
        ablations = [
            Arm(each.name, "ablation", {**reference, **each.set}, of(each, "ablation")) for each in config.ablations
        ]
        arms = [*methods, *ablations]
        searches = [self._search(arm, of(arm, "trial")) for arm in config.arms if arm.searched]
        return Results(
            title=config.name,
            objective=config.objective,
            mode=config.mode,
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            command=self._command,
            commit=self._commit,
            hardware=processor(),
            reference=config.reference.name,
            baseline_row=baseline_row([*(row for arm in arms for row in arm.rows), *rows.values()]),
            arms=arms,
            searches=searches,
            notes=failures([replace(arm, rows=[row for row in arm.rows if row.failed]) for arm in arms]),
            target_share=config.target_share,
            equal_gain=config.equal_gain,
        )

    def _search(self, arm: ArmConfig, rows: Sequence[TrialRow]) -> Search:
        """The trials of an arm so far; the best of those that have ended stands for the choice."""
        best = best_of(rows, self._config)
        return Search(arm.name, rows, best.name if best else "", bool(arm.space))


def best_so_far(results: Results, config: ExperimentConfig) -> str:
    """The run that would be chosen of those that have ended, with its objective and the change since the base model.

    Args:
        results: Results so far.
        config: Objective and limits.

    Returns:
        One line; empty if no run has ended.
    """
    row = best_of([row for row in results.rows if row.kind != "base"], config)
    value = None if row is None else row.value(config.objective)
    if row is None or value is None:
        return ""
    change = results.change(row, config.objective)
    since = "" if change is None else f" ({signed(change)} since the base model)"
    return f"{row.name}, {config.objective} {number(value)}{since}"

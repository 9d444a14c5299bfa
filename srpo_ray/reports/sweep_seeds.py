"""Effects of seeds and prompts in a sweep: the best trial with fresh seeds, and its ablations against them."""

from collections.abc import Mapping

from srpo_ray.evaluation.comparison import Gap, baseline_level, gap_table, level, reference_rows
from srpo_ray.evaluation.crossed import Estimate
from srpo_ray.evaluation.numbers import gain_text, half_width_text, number, param_text, signed
from srpo_ray.evaluation.ranking import shown_metrics
from srpo_ray.evaluation.results import CONTENT_ACCURACY, Results, TrialRow
from srpo_ray.reports.comparison_tables import gap_style
from srpo_ray.reports.footnotes import interval_note, prompts_note, tests_note
from srpo_ray.reports.headline import repeated
from srpo_ray.reports.report import Cell, Column, Row, Section, Table, Text


def seeds_section(sweep: Results) -> Section | None:
    """The best trial's metrics with fresh seeds, beside the baseline's; None without repeats."""
    repeats = sweep.arm(sweep.reference).ended
    found = [(metric, tuned) for metric in _headline_metrics(sweep) if (tuned := level(repeats, metric)) is not None]
    if not found:
        return None
    changes = {metric: repeated(sweep, metric) for metric, _ in found}
    rows = [
        Row(
            {
                "metric": metric,
                "baseline": baseline_level(sweep, metric),
                "tuned": tuned.mean,
                "change": _with_interval(changes[metric]),
                "spread": tuned.spread,
            }
        )
        for metric, tuned in found
    ]
    columns = [
        Column("metric", numeric=False),
        *(Column(key, text=number) for key in ("baseline", "tuned")),
        Column("change", text=signed, noted=True),
        Column("spread", "sd over seeds", number),
    ]
    text = (
        f"Mean of {len(repeats)} runs with other training seeds; the run that was picked is left out, because its own"
        " seed was a lucky one."
    )
    notes = [prompts_note(sweep), interval_note(changes.values())]
    below = Text(" ".join(note for note in notes if note))
    table = Table(columns, rows, head="metric")
    return Section("The best again, with fresh seeds", [Text(text), table, below])


def _with_interval(change: Estimate | None) -> Cell:
    return Cell(None) if change is None else Cell(change.mean, half_width_text(change))


def _headline_metrics(sweep: Results) -> list[str]:
    """Objective, reward, content accuracy and the truths."""
    names = shown_metrics(sweep)
    metrics = [name for name in (sweep.objective, sweep.reward, CONTENT_ACCURACY) if name in names]
    return metrics + [name for name in names if name.startswith("truth/") and not name.endswith("_accuracy")]


def ablations_section(sweep: Results) -> Section | None:
    """The reference and each ablation: values and, for ablations, their difference from the reference.

    The reference is the mean of the best trial's repeats with other seeds, because the best trial was picked for its
    value. Without two repeats it is unknown how far seeds alone move a number: no decision.
    """
    best, arms = sweep.best_row, [arm for arm in sweep.ablations if arm.rows]
    if best is None or not arms:
        return None
    metrics, reference = _headline_metrics(sweep), reference_rows(sweep)
    gaps, repeats = gap_table(sweep, arms, metrics), len(sweep.arm(sweep.reference).ended)
    columns = [
        Column("run", numeric=False),
        *(Column(metric, text=number) for metric in metrics),
        Column("changed", text=str, numeric=False),
    ]
    label = f"mean of {repeats} repeat{'s' if repeats != 1 else ''}" if repeats else best.label
    values = {metric: found.mean for metric in metrics if (found := level(reference, metric)) is not None}
    rows = [Row({"run": Cell(best.name, label), **values, "changed": ""}, "winner")]
    for arm in arms:
        row = arm.rows[0]
        cells = {metric: _value_cell(level(arm.ended, metric), gaps.get((arm.name, metric))) for metric in metrics}
        rows.append(Row({"run": Cell(row.name, row.label), **cells, "changed": _changed(row, best)}))
    table = Table(columns, rows, head="run")
    return Section("Ablations of the best", [_ablation_text(repeats), table, _ablation_notes(sweep, gaps)])


def _ablation_text(repeats: int) -> Text:
    counted = f"{repeats} repeat{'s' if repeats != 1 else ''}"
    origin = (
        f"the mean of {counted} of the best with other seeds" if repeats else "the best trial, picked for its value"
    )
    return Text(f"The best trial with one thing changed, one run each; in small print the difference from {origin}.")


def _ablation_notes(sweep: Results, gaps: Mapping[tuple[str, str], Gap]) -> Text:
    notes = [prompts_note(sweep), interval_note(gap.estimate for gap in gaps.values()), tests_note(gaps.values())]
    return Text(" ".join(note for note in notes if note))


def _value_cell(value: Estimate | None, gap: Gap | None) -> Cell:
    """A value with its difference from the reference."""
    if value is None or gap is None:
        return Cell(value and value.mean)
    return Cell(value.mean, gain_text(gap.estimate), gap_style(gap))


def _changed(row: TrialRow, best: TrialRow) -> str:
    """`path = value` for what differs from the best; a list and a tuple of the same values do not."""
    texts = {path: param_text(value) for path, value in row.params.items()}
    return ", ".join(
        f"{path} = {text}"
        for path, text in texts.items()
        if path not in best.params or text != param_text(best.params[path])
    )

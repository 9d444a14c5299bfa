"""Effects of the seed alone in a sweep: the best trial with fresh seeds, and its ablations against them."""

from srpo_ray.evaluation.numbers import number, param_text, signed, spread_text
from srpo_ray.evaluation.ranking import metric_names
from srpo_ray.evaluation.results import CONTENT_ACCURACY, Results, TrialRow
from srpo_ray.evaluation.seeds import OverSeeds
from srpo_ray.reports.headline import over_seeds
from srpo_ray.reports.report import Cell, Column, Row, Section, Strong, Table, Text


def seeds_section(sweep: Results) -> Section | None:
    """The best trial's metrics over fresh seeds, beside the baseline's; None without repeats."""
    found = [(metric, seeds) for metric in _headline_metrics(sweep) if (seeds := over_seeds(sweep, metric)) is not None]
    if not found:
        return None
    rows = []
    for metric, seeds in found:
        base = sweep.baseline(metric)
        change = None if base is None else seeds.mean - base
        rows.append(Row({"metric": metric, "baseline": base, "tuned": seeds, "change": change}))
    columns = [
        Column("metric", numeric=False),
        *(Column("baseline", text=number), Column("tuned", text=spread_text), Column("change", text=signed)),
    ]
    text = (
        f"Mean and standard deviation over {found[0][1].count} runs with other training seeds, for the same prompts"
        " and noise; the run that was picked is left out, because its own seed was a lucky one."
    )
    return Section("The best again, with fresh seeds", [Text(text), Table(columns, rows, head="metric")])


def _headline_metrics(sweep: Results) -> list[str]:
    """Objective, reward, content accuracy and the truths."""
    names = metric_names(sweep)
    metrics = [name for name in (sweep.objective, sweep.reward, CONTENT_ACCURACY) if name in names]
    return metrics + [name for name in names if name.startswith("truth/") and not name.endswith("_accuracy")]


def ablations_section(sweep: Results) -> Section | None:
    """The reference and each ablation: values and, for ablations, their difference from the reference.

    The reference is the mean of the best trial's repeats with other seeds, because the best trial was picked for its
    value. One more run of the same settings differs from it by at most `new_run_half_width` in 95% of cases; a larger
    difference is an effect. Without two repeats it is unknown how far seeds alone move a number: no decision.
    """
    best, rows = sweep.best_row, [row for arm in sweep.ablations for row in arm.rows]
    if best is None or not rows:
        return None
    metrics = _headline_metrics(sweep)
    repeats = {metric: over_seeds(sweep, metric) for metric in metrics}
    picked = {metric: OverSeeds.of([value] if (value := best.value(metric)) is not None else []) for metric in metrics}
    references = {metric: repeats[metric] or picked[metric] for metric in metrics}
    count = max((seeds.count for seeds in repeats.values() if seeds is not None), default=0)
    columns = [
        Column("run", numeric=False),
        *(Column(metric, text=number) for metric in metrics),
        Column("changed", text=str, numeric=False),
    ]
    label = f"mean of {count} repeat{'s' if count != 1 else ''}" if count else best.label
    reference = Row({"run": Cell(best.name, label), **_means(references), "changed": ""}, "winner")
    lines = [
        Row(
            {
                "run": Cell(row.name, row.label),
                **{metric: _difference(row.value(metric), seeds) for metric, seeds in references.items()},
                "changed": _changed(row, best),
            }
        )
        for row in rows
    ]
    table = Table(columns, [reference, *lines], head="run")
    return Section("Ablations of the best", [_ablation_text(count), table])


def _ablation_text(count: int) -> Text:
    repeats = f"{count} repeat{'s' if count != 1 else ''}"
    origin = f"the mean of {repeats} of the best with other seeds" if count else "the best trial, picked for its value"
    first = f"The best trial with one thing changed, one run each; in small print the difference from {origin}. "
    if count < 2:
        unknown = ") to know how far seeds alone move a number."
        return Text(f"{first}No decision: it takes two repeats or more (", Strong("seeds"), unknown)
    return Text(
        f"{first}± is the standard deviation over training seeds, with prompts and noise fixed. Gray: inside the range"
        f" in which one more run of the same settings lies in 95% of cases (Student's t with {count - 1}"
        f" degree{'s' if count != 2 else ''} of freedom, standard deviation times the root of 1 + 1/{count}). Each cell"
        " is tested alone: of twenty without effect about one is not gray."
    )


def _means(references: dict[str, OverSeeds | None]) -> dict[str, Cell]:
    """The reference's cells: means and, in small print, standard deviations."""
    return {
        metric: Cell(seeds and seeds.mean, f"± {number(seeds.spread)}" if seeds and seeds.spread is not None else "")
        for metric, seeds in references.items()
    }


def _difference(value: float | None, reference: OverSeeds | None) -> Cell:
    """A value with its difference from the reference: `clear` beyond what seeds alone move, `unclear` inside it."""
    if value is None or reference is None:
        return Cell(value)
    gap, reach = value - reference.mean, reference.new_run_half_width
    return Cell(value, signed(gap), "" if reach is None else "clear" if abs(gap) > reach else "unclear")


def _changed(row: TrialRow, best: TrialRow) -> str:
    """`path = value` for what differs from the best; a list and a tuple of the same values do not."""
    texts = {path: param_text(value) for path, value in row.params.items()}
    return ", ".join(
        f"{path} = {text}"
        for path, text in texts.items()
        if path not in best.params or text != param_text(best.params[path])
    )

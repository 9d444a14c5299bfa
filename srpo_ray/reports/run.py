"""Report of a single run: scores, curves of training, images, signs of reward hacking, config."""

import math
from collections.abc import Mapping, Sequence

from srpo_ray.evaluation.numbers import deviations, number, signed
from srpo_ray.evaluation.results import TRAINED_GAIN, TrialRow
from srpo_ray.evaluation.reward_hacking import sign_texts
from srpo_ray.reports.charts import Curves, Line, Point
from srpo_ray.reports.report import (
    Alert,
    Card,
    Cards,
    Charts,
    Code,
    Column,
    Image,
    Images,
    Part,
    Report,
    Row,
    Section,
    Strong,
    Table,
    Text,
)

_EVALUATED = ("evaluator/", "reward/", "truth/", "image/")
"""Prefixes of the metrics of an evaluation that are drawn, in this order."""
_TRAINED = ("reward/total", "loss/", "preference/", "gain/", "update/", "speed/", "cost/", "time/update", "memory/")
"""Prefixes of the metrics of an update that are drawn, in this order."""
_MOST_CHARTS = 18
_MOST_POINTS = 300


def run_report(
    row: TrialRow,
    metrics: Sequence[str],
    updates: Sequence[Mapping[str, float]],
    config: str,
    warnings: Sequence[str] = (),
    created: str = "",
    contrast: str = "",
) -> Report:
    """Build the report of one run.

    Args:
        row: The run and its evaluations.
        metrics: Held-out scores to show first.
        updates: One mapping per update, in order: `update` and the metrics.
        config: Config of the run, as YAML.
        warnings: Problems that did not stop the run.
        created: Time of the report, for people.
        contrast: Contrast that the evaluations of trained weights sample with; empty without one.
    """
    sections = [_images(row), _scores(row, metrics), _evaluations(row, metrics), _training(updates), _config(config)]
    return Report(
        title=row.name,
        headline=_headline(row, metrics),
        sections=[section for section in sections if section is not None],
        subtitle=f"{row.name} · {created}" if created else row.name,
        summary=[*_summary(row, metrics, warnings), *_contrast(contrast)],
    )


def _headline(row: TrialRow, metrics: Sequence[str]) -> str:
    """The first held-out score: on the test prompts if the run has been tested, else on the validation prompts."""
    update = int(row.evaluated.get("update", 0))
    for metric in metrics:
        tested = row.test_change(metric)
        if tested is not None:
            value, update = row.test[-1][metric], int(row.test[-1]["update"])
            return (
                f"On test prompts, {metric} is {number(value)} ({signed(tested)}) with the weights of update {update}"
            )
        change = _change(row, metric)
        if change is not None:
            return f"After update {update}, {metric} is {number(row.value(metric))} ({signed(change)})"
    return f"{row.name}: {row.status}"


def _change(row: TrialRow, metric: str) -> float | None:
    """The metric at the evaluation that stands for the run minus that of the base model."""
    base, value = row.value_at(metric, 0), row.value(metric)
    return None if base is None or value is None or row.evaluated.get("update") == 0 else value - base


def _summary(row: TrialRow, metrics: Sequence[str], warnings: Sequence[str]) -> list[Part]:
    cards = []
    for metric in metrics:
        if row.value(metric) is not None:
            base, change = row.value_at(metric, 0), _change(row, metric)
            note = "base model" if change is None else f"base model {number(base)} ({signed(change)})"
            cards.append(Card(metric, number(row.value(metric)), note))
    if row.value(TRAINED_GAIN) is not None:
        note = "rise over the base model, in standard deviations over its images"
        cards.append(Card("Trained reward", f"{deviations(row.value(TRAINED_GAIN))} sd", note))
    signs = [Alert(f"Reward hacking: {text}", warning=True) for text in sign_texts(row.signs)]
    parts: list[Part] = [Cards(cards)] if cards else []
    return [*parts, *signs, *(Alert(text, warning=True) for text in warnings)]


def _contrast(contrast: str) -> list[Part]:
    return (
        [Text(f"Evaluations sample trained weights with {contrast}; the weights alone draw others.")]
        if contrast
        else []
    )


def _scores(row: TrialRow, metrics: Sequence[str]) -> Section | None:
    """Scores on the test prompts of the base model and of the weights that stand for the run."""
    if len(row.test) < 2:
        return None
    base, tuned = row.test[0], row.test[-1]
    names = [name for name in metrics if name in base] + [name for name in base if name not in (*metrics, "update")]
    columns = [
        Column("metric", numeric=False),
        Column("base", "base model", number),
        Column("tuned", f"update {tuned['update']:g}", number),
        Column("change", text=signed),
    ]
    rows = [
        Row({"metric": name, "base": base[name], "tuned": tuned.get(name), "change": row.test_change(name)})
        for name in names
    ]
    return Section("Test prompts", [Text("These prompts have chosen nothing."), Table(columns, rows, "metric")])


def _images(row: TrialRow) -> Section | None:
    if row.gallery is None or not row.gallery.is_file():
        return None
    image = Image(row.gallery.read_bytes(), "Images of the base model and of the tuned model for the same prompts")
    return Section("Before and after", [Text("Same prompts, same starting noise."), Images(image)])


def _evaluations(row: TrialRow, metrics: Sequence[str]) -> Section | None:
    """Metrics of the evaluations over updates, the base model's value dashed."""
    names = _ordered(row.history, _EVALUATED, metrics)
    charts = [chart for name in names if (chart := _curve(row.history, name, row.value_at(name, 0))) is not None]
    text = Text("Evaluations on the validation prompts. ", Strong("Dashed"), ": the base model.")
    return Section("Evaluations", [text, Charts(charts[:_MOST_CHARTS])]) if charts else None


def _training(updates: Sequence[Mapping[str, float]]) -> Section | None:
    names = _ordered(updates, _TRAINED, ())
    charts = [chart for name in names if (chart := _curve(_thinned(updates), name, None)) is not None]
    text = Text("Metrics of the updates, of the images that the run trains on.")
    return Section("Training", [text, Charts(charts[:_MOST_CHARTS])]) if charts else None


def _config(config: str) -> Section:
    return Section("Config", [Code(config)])


def _ordered(rows: Sequence[Mapping[str, float]], prefixes: Sequence[str], first: Sequence[str]) -> list[str]:
    """Names of metrics in the rows: `first`, then by prefix."""
    found = dict.fromkeys(name for row in rows for name in row)
    chosen = [name for name in first if name in found]
    chosen += [name for prefix in prefixes for name in found if name.startswith(prefix)]
    return list(dict.fromkeys(chosen))


def _thinned(rows: Sequence[Mapping[str, float]]) -> Sequence[Mapping[str, float]]:
    """Rows at equal distances, the last one included, and no more than a chart can show."""
    stride = max(1, math.ceil(len(rows) / _MOST_POINTS))
    return rows[::-1][::stride][::-1]


def _curve(rows: Sequence[Mapping[str, float]], metric: str, baseline: float | None) -> Curves | None:
    """The metric over updates; None if it never moved. A missing or infinite value is a gap."""
    pieces: list[list[Point]] = [[]]
    for row in rows:
        value = row.get(metric)
        if value is not None and math.isfinite(value):
            pieces[-1].append((row["update"], value))
        elif pieces[-1]:
            pieces.append([])
    points = [point for piece in pieces for point in piece]
    if len({update for update, _ in points}) < 2 or len({value for _, value in points}) < 2:
        return None
    line = Line(metric, [piece for piece in pieces if piece], "best", metric, ended=True)
    return Curves(metric, f"{metric} over updates", [line], baseline=baseline)

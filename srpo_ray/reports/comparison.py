"""The report of a comparison of methods: scores, costs, and what each ablation changes."""

import math
from dataclasses import asdict
from pathlib import Path

from srpo_ray.evaluation.comparison import StudyReport, Tuned, common_targets, gap_table, study_metrics
from srpo_ray.evaluation.numbers import number, spread_text
from srpo_ray.reports.comparison_charts import ablation_chart, cost_chart, reward_chart
from srpo_ray.reports.comparison_tables import ablations_table, arms_table, passage_text, settings
from srpo_ray.reports.report import (
    Alert,
    Cell,
    Charts,
    Code,
    Column,
    Facts,
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

EQUAL = 0.05
"""Relative difference in compute up to which two methods count as trained for as long."""
_MOST_CHARTS = 10


def comparison_report(report: StudyReport, images: Path | None) -> Report:
    """Build the report of a comparison.

    Args:
        report: The results.
        images: Grid of images by the methods for the same prompts and noise, as a PNG file; None without one.
    """
    arms, ablations = arms_table(report), ablations_table(report)
    sections = [
        Section("Methods", [_methods_text(report), arms.without_ablations]),
        _images(images),
        _reward(report),
        _costs(report),
        _ablations(report, ablations),
        _tuning(report),
        _again(report),
    ]
    lead = (
        "Values of each method were chosen by one run each on another seed and other noise; then every method was"
        " trained with fresh seeds."
    )
    return Report(
        title=report.title,
        headline=headline(report),
        sections=[section for section in sections if section is not None],
        subtitle=f"{report.title} · {report.created}",
        summary=[Text(lead, style="lead"), *map(Alert, report.notes)],
        files={"table.csv": arms.all, "study.json": asdict(report)},
        terminal=[arms.without_ablations, *([ablations] if report.ablations else [])],
    )


def headline(report: StudyReport) -> str:
    """The method that ends best among those that were trained for about as long as the ablated one."""
    base = report.untrained(report.objective)
    equal = [arm for arm in report.methods if abs((report.spent(arm) or math.inf) - 1) <= EQUAL]
    found = [(arm.name, seeds) for arm in equal if (seeds := arm.over_seeds(report.objective))]
    if not found or base is None:
        return f"No method has a value of {report.objective}."
    sign = 1 if report.mode == "max" else -1
    name, seeds = max(found, key=lambda item: sign * item[1].mean)
    return f"{name} ends best at equal compute: {report.objective} {number(base)} → {spread_text(seeds)}"


def _methods_text(report: StudyReport) -> Text:
    return Text(
        "Last evaluation, mean and in small print standard deviation over seeds. ± and small print are standard"
        " deviations over training seeds, with prompts and noise fixed. ",
        Strong("Gain (sd)"),
        ": rise of the reward that the method itself is trained on, in standard deviations over the baseline's images;"
        " that is the plain prompt's score (",
        Strong("plain reward"),
        ") or, for a method with control words, their difference (",
        Strong("own words"),
        "). ",
        Strong("Calls"),
        ": velocity evaluations of one image during training, those with gradient counted three times; ",
        Strong("seconds"),
        f": those of the updates, with {report.hardware} shared by the runs beside it. ",
        Strong("To target"),
        f": until {report.objective} reached {number(report.target)}, {100 * report.target_share:.0f}% of the way from"
        f" the baseline to {report.ablated}; “>” where a run never did. ",
        Strong(f"vs {report.ablated}"),
        f": {report.objective} minus that of {report.ablated} with the same seed, ± half of the 95% interval over"
        " training seeds; bold where it differs from zero after Holm's correction for all rows. ",
        Strong("Hacked"),
        ": runs in which reward hacking was detected.",
    )


def _images(images: Path | None) -> Section | None:
    if images is None or not images.is_file():
        return None
    image = Image(images.read_bytes(), "Images of the baseline and of every method for the same prompts")
    return Section("The same prompts and noise, by every method", [Text("First seed of each."), Images(image)])


def _reward(report: StudyReport) -> Section | None:
    chart = reward_chart(report)
    text = Text(
        "Small dots: seeds. To the right, the reward that the method itself is trained on rose, in standard deviations"
        " over the baseline's images: the plain prompt's score, or the difference of its control words. Reward up with"
        " the held-out score down is reward hacking."
    )
    return Section("Trained reward against held-out score", [text, Charts([chart], "wide")]) if chart else None


def _costs(report: StudyReport) -> Section | None:
    metrics = study_metrics(report)[:_MOST_CHARTS]
    charts = [chart for metric in metrics if (chart := cost_chart(report, metric)) is not None]
    if not charts:
        return None
    dotted = "; dotted: the target" if report.target is not None else ""
    text = Text(f"Strong: mean over seeds. Thin: each seed. Dashed: the baseline{dotted}.")
    return Section("What a score costs", [text, *_passages(report), Charts(charts, "medium")])


def _passages(report: StudyReport) -> list[Part]:
    """Calls until each method first reached the same scores."""
    targets = common_targets(report)
    if not targets:
        return []
    text = Text(
        f"Velocity evaluations until {report.objective} first reached the same scores for all methods: mean ± standard"
        " deviation over training seeds, between two evaluations by proportion. “>”: a run never reached it; “<”: a run"
        " reached it before its first evaluation, which gives no number."
    )
    keys = {f"to {index}": target for index, target in enumerate(targets)}
    columns = [Column("method", numeric=False), *(Column(key, f"to {number(keys[key])}") for key in keys)]
    rows = [
        Row(
            {"method": arm.name, **{key: passage_text(report, arm, target) for key, target in keys.items()}},
            "reference" if arm.name == report.ablated else "",
        )
        for arm in report.methods
    ]
    return [text, Table(columns, rows, head="method")]


def _ablations(report: StudyReport, table: Table) -> Section | None:
    if not report.ablations:
        return None
    metrics = study_metrics(report)
    text = Text(
        f"Difference from {report.ablated} of the same seed, mean over seeds. ± is half of the 95% interval (Student's"
        " t over seeds) of the single cell, with prompts and noise fixed. Bold: the difference is not zero after Holm's"
        f" correction for all {len(gap_table(report, report.ablations, metrics))} cells of the table, which keeps the"
        " chance of any false one at 5%; gray: not shown. All run for the updates and at the learning rate of"
        f" {report.ablated} unless they say otherwise; ",
        Strong("calls"),
        " are in units of its.",
    )
    charts = [chart for metric in metrics if (chart := ablation_chart(report, metric)) is not None]
    return Section(f"Ablations of {report.ablated}", [text, table, Charts(charts)])


def _tuning(report: StudyReport) -> Section | None:
    if not report.tuning:
        return None
    text = Text(
        "One run each, on a seed that no chart above uses and evaluated on other noise, but for the same prompts and by"
        f" the same models. Kept: the best {report.objective} that keeps the comparison's limits."
    )
    columns = [Column("method", numeric=False), Column("tried", numeric=False)]
    rows = [
        Row({"method": tuned.method, "tried": Cell(_tried(report, tuned), style="long")}) for tuned in report.tuning
    ]
    return Section("How values were chosen", [text, Table(columns, rows, head="method")])


def _tried(report: StudyReport, tuned: Tuned) -> Text:
    spans: list[str] = []
    for row in tuned.rows:
        result = number(row.value(report.objective)) if row.ended else row.status
        text = f"{row.label} → {result}"
        spans += [", "] * bool(spans) + [Strong(text) if row.name == tuned.chosen else text]
    return Text(*spans)


def _again(report: StudyReport) -> Section:
    facts = Facts([("commit", report.commit or "not a git checkout"), ("hardware", report.hardware)])
    arms = [arm for arm in report.arms if arm.kind != "ablation" and arm.changes]
    lines = [Text(Strong(arm.name), f": {settings(arm.changes)}") for arm in arms]
    return Section("Run it again", [facts, Code(report.command), *lines])

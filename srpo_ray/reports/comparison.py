"""Sections about arms: scores, images, costs, ablations, and how their values were chosen."""

import math
from collections.abc import Sequence
from pathlib import Path

from srpo_ray.evaluation.comparison import EQUAL, arm_metrics, baseline_level, difference, gain, gap_table
from srpo_ray.evaluation.numbers import gain_text, number
from srpo_ray.evaluation.results import Arm, Results
from srpo_ray.evaluation.seeds import holm
from srpo_ray.reports.comparison_charts import ablation_chart, cost_chart, reward_chart
from srpo_ray.reports.cost_tables import passages
from srpo_ray.reports.footnotes import interval_note, prompts_note, tests_note
from srpo_ray.reports.report import (
    Charts,
    Image,
    Images,
    Section,
    Strong,
    Table,
    Text,
)

_MOST_CHARTS = 10


def methods_section(report: Results, methods: Table) -> Section:
    """Means of each arm over seeds and prompts, and their costs."""
    gains = [gain(report, arm.ended, metric) for arm in report.methods for metric in arm_metrics(report)]
    gaps = gap_table(report, report.methods, [report.objective])
    notes = [prompts_note(report), interval_note(gains), tests_note(gaps.values())]
    return Section("Methods", [_methods_text(report), methods, Text(" ".join(note for note in notes if note))])


def headline(report: Results) -> str:
    """The method that gains most among those that were trained for about as long as the reference arm."""
    base = baseline_level(report, report.objective)
    equal = [arm for arm in report.methods if abs((report.spent(arm) or math.inf) - 1) <= EQUAL]
    found = [(arm, risen) for arm in equal if (risen := gain(report, arm.ended, report.objective))]
    if not found or base is None:
        return f"No method has a value of {report.objective}."
    sign = 1 if report.mode == "max" else -1
    best, risen = max(found, key=lambda item: sign * item[1].mean)
    others = not_told_apart(report, best, [arm for arm, _ in found if arm is not best])
    unclear = f"; its difference from {', '.join(others)} may be zero" if others else ""
    return (
        f"{best.name} ends best at equal compute: {report.objective} {number(base)} → {number(base + risen.mean)}"
        f" ({gain_text(risen)}){unclear}"
    )


def not_told_apart(report: Results, best: Arm, others: Sequence[Arm]) -> list[str]:
    """Names of arms whose difference from the best is not significant after Holm's correction for all of them."""
    gaps = [difference(best.ended, arm.ended, report.objective) for arm in others]
    told = holm([None if gap is None or gap.counted == "prompts only" else gap.p_value for gap in gaps])
    return [arm.name for arm, significant in zip(others, told, strict=True) if not significant]


def _methods_text(report: Results) -> Text:
    return Text(
        "Evaluation of each run's final model: the mean, and in small print its rise over the baseline with its 95%"
        " interval. ",
        Strong("Sd over seeds"),
        f": standard deviation of {report.objective} over training seeds, with prompts and noise fixed. ",
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
        f": until {report.objective} first reached {number(report.target)}, {100 * report.target_share:.0f}% of the way"
        f" from the baseline to {report.reference}, on the validation prompts; “>” and “<” are explained under the"
        " table of costs. ",
        Strong(f"vs {report.reference}"),
        f": {report.objective} minus that of {report.reference}, paired by prompt and seed. ",
        Strong("Hacked"),
        ": runs in which reward hacking was detected.",
    )


def images_section(images: Path | None) -> Section | None:
    """Images of all methods for the same prompts and noise."""
    if images is None or not images.is_file():
        return None
    image = Image(images.read_bytes(), "Images of the baseline and of every method for the same prompts")
    return Section("The same prompts and noise, by every method", [Text("First seed of each."), Images(image)])


def reward(report: Results) -> Section | None:
    """Trained reward against held-out score, method by method."""
    chart = reward_chart(report)
    text = Text(
        "Small dots: seeds. To the right, the reward that the method itself is trained on rose, in standard deviations"
        " over the baseline's images: the plain prompt's score, or the difference of its control words. Reward up with"
        " the held-out score down is reward hacking."
    )
    return Section("Trained reward against held-out score", [text, Charts([chart], "wide")]) if chart else None


def costs(report: Results) -> Section | None:
    """Scores against cost, and the cost of the same scores for all methods."""
    metrics = arm_metrics(report)[:_MOST_CHARTS]
    charts = [chart for metric in metrics if (chart := cost_chart(report, metric)) is not None]
    if not charts:
        return None
    dotted = "; dotted: the target" if report.target is not None else ""
    text = Text(f"Strong: mean over seeds. Thin: each seed. Dashed: the baseline{dotted}.")
    return Section("What a score costs", [text, *passages(report), Charts(charts, "medium")])


def ablations_section(report: Results, table: Table) -> Section | None:
    """Differences of the ablations from the reference arm, seed by seed."""
    if not report.ablations:
        return None
    metrics = arm_metrics(report)
    gaps = gap_table(report, report.ablations, metrics)
    text = Text(
        f"Difference from {report.reference}, paired by prompt and seed. All run for the updates and at the learning"
        f" rate of {report.reference} unless they say otherwise; ",
        Strong("calls"),
        " are in units of its.",
    )
    notes = [prompts_note(report), interval_note(gap.estimate for gap in gaps.values()), tests_note(gaps.values())]
    below = Text(" ".join(note for note in notes if note))
    charts = [chart for metric in metrics if (chart := ablation_chart(report, metric)) is not None]
    return Section(f"Ablations of {report.reference}", [text, table, below, Charts(charts)])

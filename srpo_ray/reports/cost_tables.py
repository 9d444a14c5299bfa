"""Table of the costs of the same scores for all methods, and the texts of its cells."""

from srpo_ray.evaluation.costs import CostRatio, Passage, arm_passage, common_targets, cost_ratio, is_noise
from srpo_ray.evaluation.numbers import number
from srpo_ray.evaluation.results import Arm, Results
from srpo_ray.reports.report import NOTHING, Cell, Column, Part, Row, Table, Text


def passages(report: Results) -> list[Part]:
    """Calls until each method first reached the same scores, and the ratios to those of the reference arm."""
    targets = common_targets(report)
    if not targets:
        return []
    text = Text(
        f"Velocity evaluations until {report.objective} on the validation prompts first reached the same scores for all"
        " methods, between two evaluations by proportion; in small print as a multiple of the cost of"
        f" {report.reference}."
    )
    keys = {f"to {index}": target for index, target in enumerate(targets)}
    columns = [Column("method", numeric=False), *(Column(key, f"to {number(keys[key])}") for key in keys)]
    rows = [
        Row(
            {"method": arm.name, **{key: _cell(report, arm, target) for key, target in keys.items()}},
            "reference" if arm.name == report.reference else "",
        )
        for arm in report.methods
    ]
    return [text, Table(columns, rows, head="method"), Text(_note(report, targets))]


def _note(report: Results, targets: list[float]) -> str:
    noise = [number(target) for target in targets if is_noise(report, target)]
    unclear = (
        f" {', '.join(noise)}: no ratio, because the score is no farther from the baseline than half of the 95%"
        f" interval of {report.reference}'s gain."
        if noise
        else ""
    )
    return (
        "± is half of the 95% interval of the mean over training seeds, with prompts fixed; the interval of a ratio is"
        " that of the logarithms. “>”: a run has spent this and never reached the score. “<”: a run reached it before"
        " its first evaluation, where only a straight line from the baseline would give a number; this is then the most"
        f" that the mean can be.{unclear}"
    )


def _cell(report: Results, arm: Arm, target: float) -> Cell:
    passage, reference = (arm_passage(report, each, target) for each in (arm, report.arm(report.reference)))
    if passage is None:
        return Cell(NOTHING)
    share = f"{passage.num_reached} of {len(passage.runs)} runs reached it" if passage.bound == ">" else ""
    compared = arm.name != report.reference and not is_noise(report, target)
    ratio = ratio_text(cost_ratio(passage, reference)) if compared else ""
    notes = [ratio, share if passage.num_reached else ""]
    return Cell(passage_text(passage), ", ".join(note for note in notes if note))


def passage_text(passage: Passage | None) -> str:
    """The cost of a score: `1986 ± 75` with its 95% interval over seeds, `> 5760` or `< 960`."""
    if passage is None:
        return NOTHING
    if passage.cost is None:
        return f"{passage.bound} {passage.limit:.0f}"
    half = passage.cost.half_width
    return f"{passage.cost.mean:.0f}" + ("" if half is None else f" ± {half:.0f}")


def ratio_text(ratio: CostRatio | None) -> str:
    """A ratio of costs: `1.42 times (1.30-1.55)`, `> 3.10 times`; empty where nothing is known."""
    if ratio is None:
        return ""
    ends = "" if ratio.low is None or ratio.high is None else f" ({ratio.low:.2f}-{ratio.high:.2f})"
    return f"{ratio.bound} {ratio.ratio:.2f} times{ends}".lstrip()

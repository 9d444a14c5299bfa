"""Tables of an evaluation by categories of its prompts, such as the tasks of GenEval."""

from collections.abc import Sequence

from srpo_ray.evaluation.categories import OVERALL, CategoryComparison
from srpo_ray.evaluation.numbers import number, signed
from srpo_ray.evaluation.seeds import holm
from srpo_ray.reports.report import Cell, Column, Row, Table, Text

ByCategory = tuple[str, Sequence[CategoryComparison]]
"""Metric, and its comparisons by category."""
CATEGORIES_TEXT = Text(
    f"Means over the images of each category, and {OVERALL}, the mean over categories with equal weights. ± is half of"
    " the 95% interval of the difference over prompts (Student's t); bold where the difference is not zero after Holm's"
    " correction for all of a table."
)


def category_table(metric: str, found: Sequence[CategoryComparison]) -> Table:
    """Means and paired differences of a metric by category; `clear` where Holm's correction keeps a difference."""
    models = list(dict.fromkeys(row.model for row in found))
    several = ["model"] * (len(models) > 1)
    columns = [
        Column("category", numeric=False),
        Column("prompts"),
        Column("reference_mean", found[0].reference, number),
        Column("model", numeric=False),
        Column("mean", "mean" if several else models[0], number),
        Column("difference", "difference ± 95%", signed, noted=True),
    ]
    rows = [
        Row(_cells(row, significant), "reference" if row.category == OVERALL else "")
        for row, significant in zip(found, holm([row.p_value for row in found]), strict=True)
    ]
    shown = ["category", "prompts", "reference_mean", *several, "mean", "difference"]
    return Table(columns, rows, head="category", title=f"{metric} by category", page=shown, terminal=shown)


def _cells(row: CategoryComparison, significant: bool) -> dict[str, object]:
    interval = "" if row.half_width is None else f"± {number(row.half_width)}"
    return {
        "category": row.category,
        "prompts": row.num_prompts,
        "reference_mean": row.reference_mean,
        "model": row.model,
        "mean": row.mean,
        "difference": Cell(row.difference, interval, "clear" if significant else "unclear"),
    }

"""Section on the budget of an experiment: what search and final runs have spent of each limit."""

from collections.abc import Sequence

from srpo_ray.evaluation.results import BudgetUse, Results
from srpo_ray.reports.report import Column, Row, Section, Table, Text

_NAMES = {"gpu_hours": "GPU-hours", "hours": "hours", "money": "money"}
_TITLES = {"budget": "budget", "search": "spent on search", "final": "spent on seeds and ablations", "left": "left"}


def budget_section(report: Results) -> Section | None:
    """Spent and left amounts of each limit; None without a budget."""
    if not report.budget:
        return None
    text = Text(
        "GPU-hours are those that trainers and reward replicas have reserved, used or not; hours are wall-clock time"
        " while the command ran; money is GPU-hours times their price."
    )
    return Section("Budget", [text, budget_table(report.budget)])


def budget_table(uses: Sequence[BudgetUse]) -> Table:
    """One row per limit."""
    amounts = [Column(name, title, text=_amount) for name, title in _TITLES.items()]
    values = [{"budget": use.limit, "search": use.search, "final": use.final, "left": use.left} for use in uses]
    rows = [Row({"limit": _NAMES[use.name], **each}) for use, each in zip(uses, values, strict=True)]
    return Table([Column("limit", numeric=False), *amounts], rows, head="limit", title="budget")


def _amount(value: float) -> str:
    return f"{value:.3g}"

"""Tables of an experiment's plan."""

from io import StringIO

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from srpo_ray.config.budget import Limit
from srpo_ray.planning.experiment import Case, ExperimentPlan, RunGroup
from srpo_ray.planning.report import HOUR, WIDTH, duration, gib

UNITS: dict[Limit, str] = {"gpu_hours": "GPU-hours", "hours": "hours", "money": "in money"}
"""Words for the limits of a budget."""

SIZES = "training.num_workers is a range: runs have the fewest workers, and grow when no other run waits for its own"


def experiment_plan_text(plan: ExperimentPlan) -> str:
    """Format the plan of an experiment as plain text."""
    console = Console(file=StringIO(), width=WIDTH, color_system=None)
    console.print(experiment_plan_report(plan))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def experiment_plan_report(plan: ExperimentPlan) -> Group:
    """Format the plan of an experiment for a rich console."""
    room = f" on {plan.gpus:g} GPUs" if plan.gpus else ""
    apart, beside = plan.reward_gpus_apart, plan.reward_gpus - plan.reward_gpus_apart
    rewards = f", of which reward replicas reserve {beside:g}" if beside else ""
    rewards += f"; reward replicas reserve {apart:g} GPUs on other nodes" if apart else ""
    counts = _two(plan.count("expected"), plan.count("worst"))
    lines = [f"{plan.name}: {counts} runs, {plan.concurrency} at a time{room}{rewards}"]
    lines += [SIZES] if plan.grown else []
    lines += [] if plan.hardware.flops is None else [f"speed: {plan.hardware.assumption}"]
    end = [*_untimed(plan), memory_line(plan), *budget_lines(plan), *plan.notes]
    return Group(*map(Text, lines), _groups_table(plan), *_totals_tables(plan), *map(Text, end))


def memory_line(plan: ExperimentPlan) -> str:
    """Format the memory of the largest run, and whether it fits."""
    largest = max(plan.groups, key=lambda group: group.peak)
    where = f"{largest.name}{f', {largest.largest}' if largest.largest else ''}"
    limit = plan.hardware.limit
    if not plan.gpus:
        return f"largest run: {where}, {gib(plan.peak)} of memory in a trainer"
    if limit is None:
        return f"largest run: {where}, peak of a GPU {gib(plan.peak)}; name one with --gpu to see whether it fits"
    fits = "fits" if plan.fits else "does not fit"
    return f"largest run {fits}: {where}, {gib(plan.peak)} of {gib(limit)}; `srpo-ray plan` of its config has details"


def budget_lines(plan: ExperimentPlan) -> list[str]:
    """Compare the plan with the budget of the experiment; empty without a budget or without planned hours."""
    expected, worst = plan.cost("expected"), plan.cost("worst")
    if expected is None or worst is None:
        return []
    lines = []
    for name, limit in plan.limits.items():
        starts = [plan.starts(case).amounts(plan.prices)[name] for case in ("expected", "worst")]
        costs = [cost.amounts(plan.prices)[name] + start for cost, start in zip((expected, worst), starts, strict=True)]
        enough = "covers both" if max(costs) <= limit else "covers the expected case only"
        enough = enough if costs[0] <= limit else "does not cover the expected case, so the search will end early"
        figures = f"expected {costs[0]:.2f}, worst {costs[1]:.2f}"
        allowed = f"of which starts of phases and runs {_two(starts[0], starts[1], 2)}"
        lines.append(f"budget of {limit:g} {UNITS[name]} {enough}: {figures}, {allowed}")
    return lines


def _untimed(plan: ExperimentPlan) -> list[str]:
    if plan.cost("worst") is not None:
        return []
    if any(not group.trainer_gpus for group in plan.groups):
        why = "the trainers run on the CPU, whose speed is not planned"
    else:
        why = "no speed of a GPU is given: name one with --gpu, or give --tflops"
    return [f"hours, GPU-hours and money are not planned: {why}"]


def _groups_table(plan: ExperimentPlan) -> Table:
    table = Table(title="one run of each kind, expected / worst", title_justify="left", width=WIDTH)
    table.add_column("runs of", ratio=1)
    for title in ("number", "updates", "calls", "GPU-h, trainers", "GPU-h, rewards"):
        table.add_column(title, justify="right")
    for group in plan.groups:
        table.add_row(
            group.name,
            _two(group.count("expected"), group.count("worst")),
            _two(group.expected.updates, group.worst.updates),
            _two(group.expected.calls, group.worst.calls),
            *_gpu_hours(group, plan),
        )
    return table


def _gpu_hours(group: RunGroup, plan: ExperimentPlan) -> tuple[str, str]:
    """GPU-hours of the trainers of one run, and its share of those of the reward replicas."""
    expected, worst = group.expected.hours, group.worst.hours
    if expected is None or worst is None:
        return "-", "-"
    rewards = plan.reward_gpus / plan.concurrency
    return tuple(_two(expected * gpus, worst * gpus, 2) for gpus in (group.trainer_gpus, rewards))  # pyright: ignore[reportReturnType]


def _two(expected: float, worst: float, digits: int = 0) -> str:
    texts = [f"{value:,.{digits}f}" for value in (expected, worst)]
    return texts[0] if texts[0] == texts[1] else " / ".join(texts)


def _totals_tables(plan: ExperimentPlan) -> list[Table]:
    if plan.grown is None:
        return [_totals_table(plan, "whole experiment")]
    sizes = {"fewest": plan, "most": plan.grown}
    return [
        _totals_table(each, f"whole experiment with the {size} workers, {each.concurrency} at a time")
        for size, each in sizes.items()
    ]


def _totals_table(plan: ExperimentPlan, title: str) -> Table:
    table = Table(title=title, title_justify="left", width=WIDTH)
    table.add_column("", ratio=1)
    cases: tuple[Case, ...] = ("expected", "worst")
    for case in cases:
        table.add_column(case, justify="right")
    table.add_row("updates", *(f"{plan.updates(case):,.0f}" for case in cases))
    table.add_row("calls: velocity evaluations of the updates", *(f"{plan.calls(case):,.0f}" for case in cases))
    costs = [cost for case in cases if (cost := plan.cost(case)) is not None]
    if len(costs) == len(cases):
        table.add_row("GPU-hours of trainers", *(f"{cost.trainer_gpu_hours:,.2f}" for cost in costs))
        table.add_row("GPU-hours of reward replicas", *(f"{cost.reward_gpu_hours:,.2f}" for cost in costs))
        table.add_row("wall-clock time", *(duration(cost.hours * HOUR) for cost in costs))
        if plan.prices:
            table.add_row("money", *(f"{cost.money(plan.prices):,.2f}" for cost in costs))
    return table

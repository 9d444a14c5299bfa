"""Tables of a plan and its advice."""

from collections.abc import Sequence
from io import StringIO
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from srpo_ray.planning.accounting import Memory
from srpo_ray.planning.hardware import GIB
from srpo_ray.planning.plan import Advice, Plan

WIDTH = 100
MIB = 2**20


def plan_report(plan: Plan, advice: Sequence[Advice]) -> Group:
    """Format a plan and its advice for a rich console."""
    trained = "all of them" if plan.trained == plan.parameters else f"{plan.trained:,} of them"
    shown: list[Any] = [Text(f"{plan.run}: a transformer of {plan.parameters:,} parameters, training {trained}")]
    shown.append(Text(plan.parallelism))
    shown += [_memory_table(memory, plan.hardware.limit) for memory in (*plan.gpus, plan.host)]
    shown += [_update_table(plan), *(Text(f"not counted: {note}") for note in plan.notes), Text(decision(plan))]
    if advice:
        shown.append(_advice_table(advice))
    return Group(*shown)


def plan_text(plan: Plan, advice: Sequence[Advice]) -> str:
    """Format a plan and its advice as plain text."""
    console = Console(file=StringIO(), width=WIDTH, color_system=None)
    console.print(plan_report(plan, advice))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def decision(plan: Plan) -> str:
    """Format whether the run fits, in one line."""
    limit = plan.hardware.limit
    if limit is None:
        return f"peak of a GPU: {gib(plan.peak)}; name one with --gpu or --gpu-memory to see whether the run fits"
    room = limit - plan.peak
    if room < 0:
        return f"does not fit: {gib(plan.peak)} of {gib(limit)}, {gib(-room)} too much"
    return f"fits: {gib(plan.peak)} of {gib(limit)}, {gib(room)} free"


def gib(amount: float) -> str:
    """Format bytes in GiB, or small amounts in MiB."""
    return f"{amount / GIB:.2f} GiB" if amount >= GIB / 100 or not amount else f"{amount / MIB:.2f} MiB"


def _memory_table(memory: Memory, limit: int | None) -> Table:
    table = Table(title=memory.name, title_justify="left", width=WIDTH, show_header=False)
    table.add_column(ratio=1)
    table.add_column(justify="right")
    for part in memory.always:
        table.add_row(part.name, gib(part.bytes))
    table.add_section()
    for phase in memory.phases:
        if not phase.bytes:
            continue
        fullest = phase is memory.fullest
        parts = ", ".join(f"{part.name} {part.bytes / GIB:.2f}" for part in phase.parts)
        style = "bold" if fullest else "dim"
        table.add_row(f"{'+' if fullest else 'or'} {phase.name}: {parts}", gib(phase.bytes), style=style)
    table.add_section()
    for part in memory.outside:
        table.add_row(part.name, gib(part.bytes))
    of = f" of {gib(limit)}" if limit and "host" not in memory.name else ""
    table.add_row("peak", gib(memory.peak) + of, style="bold")
    return table


def _update_table(plan: Plan) -> Table:
    table = Table(title="one update, one worker", title_justify="left", width=WIDTH, show_header=False)
    table.add_column(ratio=1)
    table.add_column(justify="right")
    table.add_column(justify="right")
    flops = plan.hardware.flops
    for work in plan.work:
        table.add_row(work.name, f"{work.flops / 1e12:.1f} TFLOP", f"{work.flops / flops:.2f} s" if flops else "")
    table.add_row("reward models, in all replicas, beside", f"{plan.replica_work.flops / 1e12:.1f} TFLOP", "")
    for part in (*plan.traffic, *plan.reward_traffic):
        table.add_row(part.name, gib(part.bytes), "")
    if plan.wire_s is not None:
        table.add_row(f"wire between workers at {plan.hardware.bandwidth_gbs:g} GB/s", "", f"{plan.wire_s:.2f} s")
    seconds = "" if plan.compute_s is None else f"{plan.compute_s + (plan.wire_s or 0):.2f} s"
    table.add_row(f"sum, if nothing overlaps ({plan.hardware.assumption})", "", seconds, style="bold")
    return table


def _advice_table(advice: Sequence[Advice]) -> Table:
    table = Table(title="what would save memory, each by itself", title_justify="left", width=WIDTH)
    table.add_column("change", min_width=34, overflow="fold")
    table.add_column("saves", justify="right")
    table.add_column("peak then", justify="right")
    table.add_column("fits")
    table.add_column("what it means", ratio=1)
    for entry in advice:
        fits = {None: "", True: "yes", False: "no"}[entry.fits]
        table.add_row(" ".join(entry.overrides), gib(entry.saving), gib(entry.peak), fits, entry.why)
    return table

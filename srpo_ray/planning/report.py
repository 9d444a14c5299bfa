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
MINUTE, HOUR = 60, 3600
MIB = 2**20


def plan_report(
    plan: Plan, advice: Sequence[Advice], verified: Sequence[str] = (), remarks: Sequence[str] = ()
) -> Group:
    """Format a plan, its advice, the verification levels of its recipes and remarks for a rich console."""
    trained = "all of them" if plan.trained == plan.parameters else f"{plan.trained:,} of them"
    shown: list[Any] = [Text(f"{plan.run}: a transformer of {plan.parameters:,} parameters, training {trained}")]
    shown.append(Text(plan.parallelism))
    shown += [_memory_table(memory, plan.hardware.limit) for memory in (*plan.gpus, plan.host)]
    shown += [_update_table(plan), *([_run_table(plan)] if plan.run_s is not None else [])]
    shown += [*(Text(f"not counted: {note}") for note in plan.notes), Text(decision(plan))]
    shown += [Text(remark) for remark in remarks]
    shown += [Text(f"verified: {line}") for line in verified]
    if advice:
        shown.append(_advice_table(advice))
    return Group(*shown)


def plan_text(plan: Plan, advice: Sequence[Advice], verified: Sequence[str] = (), remarks: Sequence[str] = ()) -> str:
    """Format a plan, its advice, the verification levels of its recipes and remarks as plain text."""
    console = Console(file=StringIO(), width=WIDTH, color_system=None)
    console.print(plan_report(plan, advice, verified, remarks))
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
        bound = f", waiting for the host: {work.host_s:.2f} s" if flops and work.host_s > work.flops / flops else ""
        seconds = f"{work.seconds(flops):.2f} s" if flops else ""
        table.add_row(work.name + bound, f"{work.flops / 1e12:.1f} TFLOP", seconds)
    table.add_row("reward models, in all replicas, beside", f"{plan.replica_work.flops / 1e12:.1f} TFLOP", "")
    for server in plan.server_work:
        compared = f" and {server.comparisons:,} comparisons" if server.comparisons else ""
        table.add_row(f"server of reward {server.name}, for all workers", f"{server.images:,} images{compared}", "")
    for part in (*plan.traffic, *plan.group_traffic, *plan.reward_traffic):
        table.add_row(part.name, gib(part.bytes), "")
    if plan.wire_s is not None:
        table.add_row(f"wire between workers at {plan.hardware.bandwidth_gbs:g} GB/s", "", f"{plan.wire_s:.2f} s")
    seconds = "" if plan.update_s is None else f"{plan.update_s:.2f} s"
    table.add_row(f"update, if its stages do not overlap ({plan.hardware.assumption})", "", seconds, style="bold")
    table.add_row("losses in flight", str(plan.losses_in_flight), "")
    return table


def _run_table(plan: Plan) -> Table:
    table = Table(title="whole run, without its start", title_justify="left", width=WIDTH, show_header=False)
    table.add_column(ratio=1)
    table.add_column(justify="right")
    update_s, run_s = plan.update_s or 0.0, plan.run_s or 0.0
    table.add_row(f"{plan.updates} updates", duration(plan.updates * update_s))
    if plan.evaluation_s is not None:
        each = f"{plan.evaluation_s:.0f} s each, without the rewards"
        table.add_row(f"{plan.evaluations} evaluations ({each})", duration(plan.evaluations * plan.evaluation_s))
    if plan.tests_s:
        table.add_row("2 evaluations on the test prompts", duration(plan.tests_s))
    size, speed = f"{plan.checkpoint_bytes / 1e9:.1f} GB each", f"{plan.hardware.storage_gbs:g} GB/s; see --storage"
    written = f"{plan.checkpoints} checkpoint{'s' if plan.checkpoints > 1 else ''} ({size}, at {speed})"
    table.add_row(written, duration(plan.checkpoints * plan.checkpoint_s))
    table.add_row("run", duration(run_s), style="bold")
    return table


def duration(seconds: float) -> str:
    """Format seconds as hours, minutes or seconds."""
    if seconds >= HOUR:
        return f"{seconds / HOUR:.1f} h"
    return f"{seconds / MINUTE:.1f} min" if seconds >= MINUTE else f"{seconds:.1f} s"


def _advice_table(advice: Sequence[Advice]) -> Table:
    table = Table(title="what would save memory, each by itself", title_justify="left", width=WIDTH)
    table.add_column("change", min_width=34, max_width=43, overflow="fold")
    table.add_column("saves", justify="right")
    table.add_column("peak then", justify="right")
    table.add_column("fits")
    table.add_column("what it means", ratio=1)
    for entry in advice:
        fits = {None: "", True: "yes", False: "no"}[entry.fits]
        table.add_row(" ".join(entry.overrides), gib(entry.saving), gib(entry.peak), fits, entry.why)
    return table

"""CPU seconds of a sweep by part, in a folder that is removed at the end.

python benchmarks/sweep_cost.py [--config FILE] [--json FILE] [experiment.search.num_samples=2 ...]

CPU seconds are user and system time of all processes, which other work on the machine changes little. They are read
several times a second until a process ends, so up to that much of each process is missing. Run it on an idle machine
to compare the wall time too.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.search.publish import hardware

INTERVAL_S = 0.3
DRIVER, RAY = "driver", "Ray's own processes"
PARTS = {
    "ray::ImplicitFunc": "processes of trials",
    "ray::RayTrainWorker": "workers of Ray Train",
    "ray::TrainController": "other actors of Ray Train",
    "ray::SynchronizationActor": "other actors of Ray Train",
    "ray::_QueueActor": "other actors of Ray Train",
    "ray::_AutoscalingCoordinator": "other actors of Ray Train",
    "ray::RewardReplica": "reward replicas",
    "ray::RewardRouter": "reward router",
}
"""Begin of a process's title -> its part; Ray sets the title to the class of an actor."""


@dataclass
class Cost:
    """CPU time of a process so far."""

    part: str
    seconds: float


@dataclass
class Runs:
    """Work of all runs of a sweep, from their own rows; seconds are wall time."""

    runs: int = 0
    updates: int = 0
    update_s: float = 0.0
    evaluations: int = 0
    evaluate_s: float = 0.0

    def add(self, folder: RunFolder) -> None:
        """Add the rows of one run."""
        updates, evaluations = read_rows(folder.updates), read_rows(folder.evaluations)
        self.runs += 1
        self.updates += len(updates)
        self.update_s += sum(row["time/update"] for row in updates)
        self.evaluations += len(evaluations)
        self.evaluate_s += sum(row["time/evaluate"] for row in evaluations)


def part_of(process: psutil.Process, driver: int) -> str:
    """Name the part of a sweep that a process belongs to, by its present title."""
    if process.pid == driver:
        return DRIVER
    title = " ".join(process.cmdline())
    return next((part for begin, part in PARTS.items() if title.startswith(begin)), RAY)


def watch(command: Sequence[str]) -> tuple[list[Cost], float]:
    """Run a command and account for all its descendants.

    Returns:
        The cost of each process, and the wall time in seconds.

    Raises:
        CalledProcessError: If the command fails.
    """
    costs: dict[tuple[int, float], Cost] = {}
    start = time.monotonic()
    with subprocess.Popen(command, stdout=sys.stderr) as running:
        driver = psutil.Process(running.pid)
        while running.poll() is None:
            note(costs, driver)
            time.sleep(INTERVAL_S)
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, list(command))
    return list(costs.values()), time.monotonic() - start


def note(costs: dict[tuple[int, float], Cost], driver: psutil.Process) -> None:
    """Update the cost of every process that lives."""
    try:
        processes = [driver, *driver.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            times, key, part = process.cpu_times(), (process.pid, process.create_time()), part_of(process, driver.pid)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        known = costs.setdefault(key, Cost(part, 0.0))
        # A worker of Ray has no actor before it has one, and between two calls some titles lack the class.
        known.part = part if part != RAY else known.part
        known.seconds = times.user + times.system


def by_part(costs: Sequence[Cost]) -> dict[str, tuple[int, float]]:
    """Sum the costs: part -> number of processes and CPU seconds, the most expensive first."""
    parts = {part: [cost.seconds for cost in costs if cost.part == part] for part in {cost.part for cost in costs}}
    sums = {part: (len(seconds), sum(seconds)) for part, seconds in parts.items()}
    return dict(sorted(sums.items(), key=lambda entry: -entry[1][1]))


def show(parts: dict[str, tuple[int, float]], runs: Runs, wall: float) -> None:
    """Print the tables."""
    total = sum(seconds for _, seconds in parts.values())
    table = Table(title=f"{total:.0f} CPU seconds, {wall:.0f} s of wall time, {hardware()}")
    for title in ("part", "processes", "CPU s", "share", "CPU s per run"):
        table.add_column(title, justify="left" if title == "part" else "right")
    for part, (count, seconds) in parts.items():
        table.add_row(
            part, str(count), f"{seconds:.1f}", f"{seconds / total:.0%}", f"{seconds / max(1, runs.runs):.2f}"
        )
    console = Console(width=100)
    console.print(table)
    console.print(
        f"{runs.runs} runs: {runs.updates} updates in {runs.update_s:.0f} s and {runs.evaluations} evaluations in"
        f" {runs.evaluate_s:.0f} s of wall time, summed over runs that may overlap"
    )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/experiments/small_world_sweep.yaml")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "srpo_ray.cli", "sweep", parsed.config, f"run_root={folder}", *parsed.overrides]
        costs, wall = watch([sys.executable, *command])
        runs = Runs()
        for path in sorted(Path(folder).glob("*/trials/*")):
            runs.add(RunFolder(path))
    parts = by_part(costs)
    show(parts, runs, wall)
    if parsed.json:
        result = {"hardware": hardware(), "wall_s": wall, "parts": parts, "runs": asdict(runs)}
        parsed.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

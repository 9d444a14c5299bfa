"""Seconds per SRPO update and per stage, with rewards in Ray actors and in process, and peak memory per process.

    python benchmarks/update.py [--config FILE] [--updates 40] [--rounds 3] [--json FILE] [a.b=value ...]

The two ways alternate, so that a machine whose speed drifts slows both; the ratio is of medians over all rounds.
"""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.launch.session import ray_session
from srpo_ray.launch.train import train
from srpo_ray.runs.folder import read_rows
from srpo_ray.search.publish import hardware

STAGES = ("rollout", "forward", "score", "backward", "optimizer", "update")
WARM_UP = 5
"""Updates at the start of a run that are not counted."""


class PeakMemory:
    """Highest resident memory of each kind of Ray process, read from /proc twice a second."""

    def __init__(self) -> None:
        self.gib: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            for folder in Path("/proc").glob("[0-9]*"):
                self._read(folder)

    def _read(self, folder: Path) -> None:
        try:
            name = (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
            status = (folder / "status").read_text()
        except OSError:
            return
        if name.startswith("ray::") and "VmHWM" in status:
            kind = name.removeprefix("ray::").split(".")[0].split(":")[0].strip()
            peak = int(status.split("VmHWM:")[1].split()[0]) / 2**20
            self.gib[kind] = max(self.gib.get(kind, 0.0), peak)


def measure(config: RunConfig, rounds: int) -> dict[str, Any]:
    """Alternate both ways of scoring and take the median of each stage."""
    rows: dict[str, list[dict[str, float]]] = {"remote": [], "in process": []}
    with PeakMemory() as memory, ray_session(None):
        for number in range(rounds):
            for way, collected in rows.items():
                changes = {"name": f"{way.replace(' ', '_')}_{number}", "rewards.in_process": way == "in process"}
                collected += read_rows(train(apply(config, changes)).updates)[WARM_UP:]
    seconds = {
        way: {stage: median(row[f"time/{stage}"] for row in collected) for stage in STAGES}
        for way, collected in rows.items()
    }
    return {
        "hardware": hardware(),
        "batch_size": config.training.batch_size,
        "updates_counted": {way: len(collected) for way, collected in rows.items()},
        "seconds": seconds,
        "reward_wait_s": median(row["time/reward_wait"] for row in rows["remote"]),
        "reward_round_trip_s": median(row["time/reward_round_trip"] for row in rows["remote"]),
        "reward_compute_s": median(row["time/reward_compute"] for row in rows["remote"]),
        "remote_over_in_process": seconds["remote"]["update"] / seconds["in process"]["update"],
        "peak_memory_gib": memory.gib,
    }


def show(result: dict[str, Any]) -> None:
    """Print the figures."""
    table = Table(title=f"Seconds per update (median), {result['hardware']}, batch {result['batch_size']}")
    table.add_column("rewards")
    for stage in STAGES:
        table.add_column(stage, justify="right")
    for way, seconds in result["seconds"].items():
        table.add_row(way, *[f"{seconds[stage]:.3f}" for stage in STAGES])
    console = Console(width=110)
    console.print(table)
    console.print(f"remote / in process: {result['remote_over_in_process']:.3f}")
    console.print(
        f"reward call: wait {result['reward_wait_s'] * 1e3:.0f} ms per update, round trip"
        f" {result['reward_round_trip_s'] * 1e3:.0f} ms, of which compute {result['reward_compute_s'] * 1e3:.0f} ms"
    )
    for kind, gib in sorted(result["peak_memory_gib"].items(), key=lambda item: -item[1]):
        console.print(f"peak memory {kind}: {gib:.2f} GiB")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/small_world.yaml")
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*")
    parsed = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        fixed = [f"run_root={folder}", f"training.num_updates={parsed.updates}", "evaluation.num_prompts=2"]
        result = measure(load_run([parsed.config], [*fixed, *parsed.overrides]), parsed.rounds)
    show(result)
    print(f"took {time.monotonic() - start:.0f} s")
    if parsed.json:
        parsed.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

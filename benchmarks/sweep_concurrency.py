"""Wall time of the same small sweep at one, two, ... concurrent trials.

python benchmarks/sweep_concurrency.py [--concurrency 1 2 3] [--trials 4] [--updates 30] [--json FILE]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from srpo_ray.config import load_sweep
from srpo_ray.tuning.report import hardware
from srpo_ray.tuning.sweep import run_sweep


def seconds(concurrency: int, trials: int, updates: int) -> float:
    """Run the default sweep's search, without early stopping and follow-ups, and time it from start to report."""
    with tempfile.TemporaryDirectory() as folder:
        sweep, base = load_sweep(
            "configs/sweep/small_world.yaml",
            [
                f"run_root={folder}",
                f"training.num_updates={updates}",
                f"sweep.num_samples={trials}",
                f"sweep.max_concurrent_trials={concurrency}",
                "sweep.scheduler.type=none",
                "sweep.repeat_seeds=[]",
                "sweep.comparisons=[]",
            ],
        )
        start = time.monotonic()
        run_sweep(sweep, base, None, "benchmark")
        return time.monotonic() - start


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--json", type=Path)
    parsed = parser.parse_args()
    found = {number: seconds(number, parsed.trials, parsed.updates) for number in parsed.concurrency}
    table = Table(title=f"{parsed.trials} trials of {parsed.updates} updates, {hardware()}")
    for title in ("concurrent trials", "seconds", "of the first"):
        table.add_column(title, justify="right")
    first = next(iter(found.values()))
    for number, wall in found.items():
        table.add_row(str(number), f"{wall:.0f}", f"{wall / first:.2f}")
    Console(width=100).print(table)
    if parsed.json:
        result = {"hardware": hardware(), "trials": parsed.trials, "updates": parsed.updates, "seconds": found}
        parsed.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

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

from srpo_ray.config import load_experiment
from srpo_ray.search.experiment import run_experiment
from srpo_ray.search.publish import hardware


def seconds(concurrency: int, trials: int, updates: int) -> float:
    """Run the default sweep's search, without early stopping and follow-ups, and time it from start to report."""
    with tempfile.TemporaryDirectory() as folder:
        experiment, base = load_experiment(
            "configs/experiments/small_world_sweep.yaml",
            [
                f"run_root={folder}",
                f"training.num_updates={updates}",
                f"experiment.search.num_samples={trials}",
                f"experiment.max_concurrent_trials={concurrency}",
                "experiment.search.scheduler.type=none",
                "experiment.seeds=[]",
                "experiment.ablations=[]",
            ],
        )
        start = time.monotonic()
        run_experiment(experiment, base, None, "benchmark", "benchmark")
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

"""A long run to which something happens every few updates, and what each fault costs.

    python benchmarks/soak.py --updates 200 --every 10 --json soak.json

Several Ray nodes share this machine: a head with the reward pool, and two nodes with a trainer each. A seed decides
what is taken away: a trainer's process, a reward replica's, a node without warning, or a node with a spot notice. The
run must end with every update made once and, to rounding, with the weights of the same run in peace. `lost` is how many
updates were made again, `seconds` the time from the fault to the first update beyond those made before it; of a spot
notice, both count from the moment when the node goes.
"""

import argparse
import json
import random
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from srpo_ray.config import RunConfig, load_run
from srpo_ray.launch.train import train
from srpo_ray.runs.checkpoint import read_checkpoint
from srpo_ray.runs.checkpoint_files import complete_checkpoints
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.runs.storage import Storage
from tests.conftest import SMALL_WORLD, TINY
from tests.helpers.faults.nodes import Nodes, wait_until
from tests.helpers.training.tiny_flux import relative_error

FAULTS = ("trainer killed", "replica killed", "node killed", "node preempted")
NOTICE_S = 5.0
PATIENCE_S = 900.0


@dataclass(frozen=True)
class Suffered:
    """One fault."""

    fault: str
    update: int
    """Last update made before it."""
    lost: int
    seconds: float


def soak_config(root: Path, name: str, updates: int) -> RunConfig:
    """The small world's run, elastic, in small steps."""
    target = "tests.helpers.training.faulty_rewards:Brightness"
    reward = {"type": "python", "name": "brightness", "target": target, "arguments": {"seconds": 0.05}}
    changes = [
        f"run_root={root}",
        *TINY,
        f"name={name}",
        f"training.num_updates={updates}",
        f"evaluation.interval={updates}",
        "training.checkpoint_interval=5",
        "training.num_workers={min: 1, max: 2}",
        "training.max_failures=1000",
        "training.resize_interval_s=5",
        "training.resources={trainer_slot: 1}",
        f"rewards.models={json.dumps([reward])}",
        "rewards.pool.num_cpus=0.1",
        "rewards.pool.resources={reward_slot: 1}",
    ]
    return load_run([SMALL_WORLD], changes)


def made(folder: RunFolder) -> int:
    """Updates made so far."""
    rows = read_rows(folder.updates)
    return rows[-1]["update"] if rows else 0


def is_over(folder: RunFolder) -> bool:
    """Test whether the run has ended."""
    return folder.finished.exists()


def starts(folder: RunFolder) -> list[dict[str, Any]]:
    """The groups of workers so far: the update that each began at, and how many they were."""
    return [row for row in read_rows(folder.events) if row["event"] == "started"]


def suffer(fault: str, nodes: Nodes, folder: RunFolder) -> Suffered:
    """Let one thing happen, and wait until the run has made up for it and all nodes are back."""
    if fault == "node preempted":
        nodes.warn_of_preemption(seconds=NOTICE_S)
        time.sleep(NOTICE_S)
    groups, before, began = len(starts(folder)), made(folder), time.monotonic()
    if fault == "trainer killed":
        nodes.kill("ray::RayTrainWorker")
    elif fault == "replica killed":
        nodes.kill("ray::RewardReplica")
    else:
        nodes.lose_node()
    if fault != "replica killed":
        wait_until(lambda: len(starts(folder)) > groups, f"{fault} at update {before}: no new start", PATIENCE_S)
    wait_until(lambda: made(folder) > before, f"{fault} at update {before}: no later update", PATIENCE_S)
    seconds, later = time.monotonic() - began, starts(folder)[groups:]
    nodes.fill()
    return Suffered(fault, before, max(0, before - later[0]["update"]) if later else 0, seconds)


def disturb(nodes: Nodes, folder: RunFolder, arguments: argparse.Namespace, found: list[Suffered]) -> None:
    """Let something happen after every so many updates."""
    draws = random.Random(arguments.seed)
    for update in range(arguments.every, arguments.updates, arguments.every):
        wait_until(lambda due=update: made(folder) >= due, f"update {update}", PATIENCE_S)
        # Else a node may go that has no worker, which is no fault.
        wait_until(lambda: starts(folder)[-1]["message"] == "workers: 2" or is_over(folder), "two workers", PATIENCE_S)
        if is_over(folder) or made(folder) >= arguments.updates - 1:
            return
        found.append(suffer(draws.choice(FAULTS), nodes, folder))
        print(found[-1], flush=True)


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    """Those of the newest checkpoint."""
    storage = Storage(folder.checkpoints)
    return dict(read_checkpoint(storage, complete_checkpoints(storage)[-1]).weights)


def main() -> int:
    """Soak, compare and print; exit code 1 if the run is not what it would have been in peace."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--every", type=int, default=10, help="updates between two faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    nodes, found = Nodes(uuid.uuid4().hex), []
    with tempfile.TemporaryDirectory() as root:
        try:
            nodes.fill()
            calm = train(soak_config(Path(root), "calm", arguments.updates))
            config = soak_config(Path(root), "shaken", arguments.updates)
            folder = RunFolder(Path(root).resolve() / "shaken")
            with ThreadPoolExecutor(1) as thread:
                disturbing = thread.submit(disturb, nodes, folder, arguments, found)
                train(config)
                disturbing.result()
        finally:
            nodes.close()
        steps = [row["update"] for row in read_rows(folder.updates)]
        shaken, expected = weights(folder), weights(calm)
        error = relative_error(shaken, expected)
    whole = steps == list(range(1, arguments.updates + 1))
    report(found, whole, error)
    if arguments.json:
        result = {"faults": [asdict(each) for each in found], "every update once": whole, "relative error": error}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if whole and error < 1e-5 else 1


def report(found: list[Suffered], whole: bool, error: float) -> None:
    """Print what each kind of fault cost."""
    table = Table("fault", "times", "updates lost, most", "seconds, mean", "seconds, most")
    for fault in FAULTS:
        mine = [each for each in found if each.fault == fault]
        if mine:
            seconds = [each.seconds for each in mine]
            lost = max(each.lost for each in mine)
            table.add_row(fault, str(len(mine)), str(lost), f"{sum(seconds) / len(mine):.1f}", f"{max(seconds):.1f}")
    Console(width=100).print(table)
    print(f"every update once: {whole}; weights differ from the undisturbed run's by {error:.1e}, relatively")


if __name__ == "__main__":
    sys.exit(main())

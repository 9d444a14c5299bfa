"""What the reward pool costs: throughput from 1 to N replicas, and the latency that a call gains at half load.

    python benchmarks/reward_pool.py --replicas 4 --json pool.json

The models are stand-ins that sleep as long as a GPU would compute, so the figures are those of the pool alone
(resize, serialisation, dispatch, object store, autograd bridge) and can be taken on a machine without a GPU.
Columns: `ideal` is replicas / seconds per call; `added` is the time from submit to result beyond the sleep, with calls
evenly spaced at half the ideal rate, each from a client of its own as from so many trainers.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import ray
import torch
from torch import Tensor

from srpo_ray.config.reward import PoolConfig, PythonRewardConfig
from srpo_ray.rewards.pool.client import RewardClient
from srpo_ray.rewards.pool.pool import RewardPool
from srpo_ray.rewards.query import TextQuery

NAME = "benchmark"


class SleepingReward:
    """Mean of the picture, after the time that a GPU would take."""

    name = ""
    image_gradient = True

    def __init__(self, image_size: int, seconds_per_picture: float) -> None:
        self.image_size = image_size
        self.seconds_per_picture = seconds_per_picture

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        time.sleep(self.seconds_per_picture * len(queries))
        return images.mean(dim=(1, 2, 3))


@dataclass(frozen=True)
class Measurement:
    """One row of the table; times in seconds."""

    replicas: int
    calls_per_s: float
    ideal_calls_per_s: float
    ratio: float
    added_latency_median: float
    added_latency_p95: float


def make_batch(arguments: argparse.Namespace) -> tuple[Tensor, list[TextQuery]]:
    """Pictures that need no resize, so that one call carries what a trainer would send."""
    size = arguments.image_size
    images = torch.rand(arguments.batch_size, 3, size, size).requires_grad_()
    return images, [TextQuery.plain("a cat")] * arguments.batch_size


def throughput(arguments: argparse.Namespace, replicas: int) -> float:
    """Calls per second of one client that keeps all replicas busy, with gradients brought back."""
    client = RewardClient.connect(NAME, {"sleeping": 1.0})
    images, queries = make_batch(arguments)
    count = arguments.calls * replicas
    started = time.perf_counter()
    pending = [client.submit(images, queries) for _ in range(2 * replicas)]
    for index in range(count):
        pending.pop(0).result().total.sum().backward()
        # Two calls per replica on their way: one at work and one that waits.
        if index + 2 * replicas < count:
            pending.append(client.submit(images, queries))
    return count / (time.perf_counter() - started)


def added_latency(arguments: argparse.Namespace, replicas: int, call_s: float) -> list[float]:
    """Seconds beyond the sleep of each of many calls, evenly spaced at half the pool's ideal rate."""
    interval = 2 * call_s / replicas
    images, queries = make_batch(arguments)

    def one_call(client: RewardClient, start: float) -> float:
        time.sleep(max(0.0, start - time.perf_counter()))
        begin = time.perf_counter()
        client.submit(images, queries).result()
        return time.perf_counter() - begin - call_s

    count = arguments.calls * replicas
    clients = [RewardClient.connect(NAME, {"sleeping": 1.0}) for _ in range(2 * replicas)]
    first = time.perf_counter() + 0.1
    with ThreadPoolExecutor(len(clients)) as threads:
        calls = [
            threads.submit(one_call, clients[index % len(clients)], first + index * interval) for index in range(count)
        ]
        return [call.result() for call in calls]


def measure(arguments: argparse.Namespace, replicas: int) -> Measurement:
    """Both figures of a pool of the given size."""
    call_s = arguments.seconds_per_picture * arguments.batch_size
    reward = PythonRewardConfig(
        name="sleeping",
        target=f"{Path(__file__).stem}:SleepingReward",
        arguments={"image_size": arguments.image_size, "seconds_per_picture": arguments.seconds_per_picture},
    )
    pool = PoolConfig(
        num_replicas=replicas,
        num_cpus=0,
        micro_batch_size=arguments.batch_size,
        gradient_dtype=arguments.gradient_dtype,
    )
    with RewardPool.create([reward], [], pool, NAME):
        client = RewardClient.connect(NAME, {"sleeping": 1.0})
        for pending in [client.submit(*make_batch(arguments)) for _ in range(replicas)]:
            pending.result()
        rate = throughput(arguments, replicas)
        added = sorted(added_latency(arguments, replicas, call_s))
    ideal = replicas / call_s
    p95 = added[min(len(added) - 1, round(0.95 * len(added)))]
    return Measurement(replicas, rate, ideal, rate / ideal, statistics.median(added), p95)


def print_table(rows: Sequence[Measurement]) -> None:
    """One line per pool size."""
    print(f"{'replicas':>8} {'calls/s':>9} {'ideal':>9} {'ratio':>7} {'added median':>13} {'added p95':>10}")
    for row in rows:
        print(
            f"{row.replicas:>8} {row.calls_per_s:>9.2f} {row.ideal_calls_per_s:>9.2f} {row.ratio:>7.3f} "
            f"{1000 * row.added_latency_median:>10.1f} ms {1000 * row.added_latency_p95:>7.1f} ms"
        )


def main() -> None:
    """Run and print; `--json` keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=4, help="largest pool; measured are 1, 2, 4, ... up to it")
    parser.add_argument("--calls", type=int, default=20, help="calls per replica and measurement")
    parser.add_argument("--batch-size", type=int, default=8, help="pictures in a call")
    parser.add_argument("--image-size", type=int, default=224, help="side of a picture in pixels")
    parser.add_argument("--seconds-per-picture", type=float, default=0.05, help="stand-in for the GPU's time")
    parser.add_argument("--gradient-dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(include_dashboard=False, log_to_driver=False)
    sizes = sorted({1, arguments.replicas, *(2**k for k in range(arguments.replicas.bit_length()))})
    rows = [measure(arguments, replicas) for replicas in sizes if replicas <= arguments.replicas]
    print_table(rows)
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key != "json"}
        arguments.json.write_text(
            json.dumps({"settings": settings, "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()

"""Cost of the reward pool: throughput from 1 to N replicas, and the latency that a call gains at half load.

    python benchmarks/reward_pool.py --replicas 32 --json pool.json

The models are stand-ins that sleep as long as a GPU would compute, so the figures are those of the pool alone
(resize, serialisation, dispatch, object store, autograd bridge) and can be taken on a machine without a GPU.

Columns: `ideal` is replicas / seconds per call. `CPU/call` is the processor time that all processes of the benchmark
spend on a call, and `cores` how many cores that keeps busy at this rate: near the number that the machine has, the
machine is the limit and not the pool. `MB/s` is pixels and gradients that go through the object store. Half load is
calls evenly spaced at half the ideal rate, each from a client of its own as from so many trainers: `waiting` is how
many calls wait when one is assigned, on average, and `added` the time from submit to result beyond the sleep. `Ray` is
the same of the two calls to actors and the two arrays that a call to the pool is made of, with nothing of the pool in
them.
"""

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from srpo_ray.config.rewards import PoolConfig, PythonRewardConfig
from srpo_ray.launch.local_ray import on_loopback
from srpo_ray.rewards.pool.client import RewardClient
from srpo_ray.rewards.pool.pool import RewardPool
from srpo_ray.rewards.query import TextQuery

NAME = "benchmark"
IN_FLIGHT = 4
"""Calls per replica on their way at full load: one at work, and some that wait in case the next comes late."""


class SleepingReward:
    """Mean of the image, in the time that a GPU would take."""

    name = ""
    image_gradient = True

    def __init__(self, image_size: int, seconds_per_image: float) -> None:
        self.image_size = image_size
        self.seconds_per_image = seconds_per_image

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        end = time.perf_counter() + self.seconds_per_image * len(queries)
        mean = images.mean(dim=(1, 2, 3))
        time.sleep(max(0.0, end - time.perf_counter()))
        return mean


@ray.remote(num_cpus=0)
class BareRouter:
    """An actor in place of the pool's router that assigns nothing."""

    async def assign(self) -> int:
        return 0


@ray.remote(num_cpus=0)
class BareReplica:
    """An actor that takes an array, sleeps and gives one back."""

    def score(self, array: Any, seconds: float) -> Any:
        time.sleep(seconds)
        return np.empty_like(array)


@dataclass(frozen=True)
class Measurement:
    """One row of the table; times in seconds."""

    replicas: int
    calls_per_s: float
    ideal_calls_per_s: float
    ratio: float
    cpu_s_per_call: float
    cores_busy: float
    megabytes_per_s: float
    waiting_at_half_load: float
    added_latency_median: float
    added_latency_p95: float
    ray_latency_median: float
    ray_latency_p95: float


def cpu_seconds() -> float:
    """Processor time so far of this process and all that it started, Ray's processes among them."""
    tick, me = os.sysconf("SC_CLK_TCK"), os.getpid()
    parent, seconds = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parent[int(stat.parent.name)] = int(fields[1])
        seconds[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / tick

    def is_ours(pid: int) -> bool:
        return pid == me or (pid in parent and is_ours(parent[pid]))

    return sum(spent for pid, spent in seconds.items() if is_ours(pid))


def make_batch(arguments: argparse.Namespace) -> tuple[Tensor, list[TextQuery]]:
    """Images that need no resize, so that one call carries what a trainer would send."""
    size = arguments.image_size
    images = torch.rand(arguments.batch_size, 3, size, size).requires_grad_()
    return images, [TextQuery.plain("a cat")] * arguments.batch_size


def throughput(arguments: argparse.Namespace, replicas: int) -> tuple[float, float]:
    """Calls per second of one client that keeps all replicas busy, with gradients, and CPU seconds per call."""
    client = RewardClient.connect(NAME, {"sleeping": 1.0})
    images, queries = make_batch(arguments)
    count = arguments.calls * replicas
    spent, started = cpu_seconds(), time.perf_counter()
    on_their_way = IN_FLIGHT * replicas
    pending = [client.submit(images, queries) for _ in range(on_their_way)]
    for index in range(count):
        pending.pop(0).result().total.sum().backward()
        # Adding up gradients over calls is no work of the pool.
        images.grad = None
        if index + on_their_way < count:
            pending.append(client.submit(images, queries))
    rate = count / (time.perf_counter() - started)
    return rate, (cpu_seconds() - spent) / count


def half_load(arguments: argparse.Namespace, replicas: int) -> tuple[list[float], float]:
    """Seconds beyond the sleep of each of many calls at half the pool's ideal rate, and how many waited on average."""
    images, queries = make_batch(arguments)
    clients = [RewardClient.connect(NAME, {"sleeping": 1.0}) for _ in range(2 * replicas)]
    turn = itertools.cycle(clients)
    added = evenly_spaced(arguments, replicas, lambda: next(turn).submit(images, queries).result())
    told = [client.take_statistics() for client in clients]
    return added, sum(one["pool/queue_depth"] * one["pool/calls"] for one in told) / len(added)


def half_load_of_ray(arguments: argparse.Namespace, replicas: int) -> list[float]:
    """The same of bare actors: a question to one, then an array to another and back."""
    router: Any = BareRouter.remote()
    actors: list[Any] = [BareReplica.remote() for _ in range(replicas)]
    pixels, seconds = make_batch(arguments)[0].detach().numpy(), call_seconds(arguments)
    ray.get([actor.score.remote(pixels, 0.0) for actor in actors])
    turn = itertools.cycle(actors)

    def call() -> None:
        assigned, stored = router.assign.remote(), ray.put(pixels)
        ray.get(assigned)
        ray.get(next(turn).score.remote(stored, seconds))

    added = evenly_spaced(arguments, replicas, call)
    for actor in (router, *actors):
        ray.kill(actor)
    return added


def evenly_spaced(arguments: argparse.Namespace, replicas: int, call: Callable[[], object]) -> list[float]:
    """Seconds beyond the sleep of each of many calls at half the ideal rate."""
    call_s = call_seconds(arguments)
    interval, first = 2 * call_s / replicas, time.perf_counter() + 0.1

    def one_call(index: int) -> float:
        time.sleep(max(0.0, first + index * interval - time.perf_counter()))
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin - call_s

    with ThreadPoolExecutor(2 * replicas) as threads:
        return sorted(threads.map(one_call, range(arguments.calls * replicas)))


def call_seconds(arguments: argparse.Namespace) -> float:
    """Seconds that a replica sleeps for a call."""
    return arguments.seconds_per_image * arguments.batch_size


def measure(arguments: argparse.Namespace, replicas: int) -> Measurement:
    """Both figures of a pool of the given size."""
    reward = PythonRewardConfig(
        name="sleeping",
        target=f"{Path(__file__).stem}:SleepingReward",
        arguments={"image_size": arguments.image_size, "seconds_per_image": arguments.seconds_per_image},
    )
    pool = PoolConfig(
        num_replicas=replicas,
        num_cpus=0,
        micro_batch_size=arguments.batch_size,
        wire_dtype=arguments.wire_dtype,
    )
    with RewardPool.create([reward], [], pool, NAME):
        client = RewardClient.connect(NAME, {"sleeping": 1.0})
        for pending in [client.submit(*make_batch(arguments)) for _ in range(replicas)]:
            pending.result()
        rate, cpu_s = throughput(arguments, replicas)
        added, waiting = half_load(arguments, replicas)
    of_ray = half_load_of_ray(arguments, replicas)
    ideal = replicas / call_seconds(arguments)
    item = 2 if arguments.wire_dtype == "bfloat16" else 4
    megabytes = 2 * arguments.batch_size * 3 * arguments.image_size**2 * item / 1e6
    return Measurement(
        replicas=replicas,
        calls_per_s=rate,
        ideal_calls_per_s=ideal,
        ratio=rate / ideal,
        cpu_s_per_call=cpu_s,
        cores_busy=cpu_s * rate,
        megabytes_per_s=megabytes * rate,
        waiting_at_half_load=waiting,
        added_latency_median=statistics.median(added),
        added_latency_p95=percentile_95(added),
        ray_latency_median=statistics.median(of_ray),
        ray_latency_p95=percentile_95(of_ray),
    )


def percentile_95(ordered: Sequence[float]) -> float:
    """Of values in order."""
    return ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]


def print_row(row: Measurement) -> None:
    """One line of the table, as soon as it is measured."""
    print(
        f"{row.replicas:>8} {row.calls_per_s:>8.2f} {row.ideal_calls_per_s:>8.2f} {row.ratio:>6.3f} "
        f"{1000 * row.cpu_s_per_call:>6.1f} ms {row.cores_busy:>6.2f} {row.megabytes_per_s:>6.0f} "
        f"{row.waiting_at_half_load:>8.2f} {1000 * row.added_latency_median:>6.1f} ms "
        f"{1000 * row.added_latency_p95:>6.1f} ms {1000 * row.ray_latency_median:>6.1f} ms "
        f"{1000 * row.ray_latency_p95:>6.1f} ms",
        flush=True,
    )


def main() -> None:
    """Run and print; `--json` keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=32, help="largest pool; measured are 1, 2, 4, ... up to it")
    parser.add_argument("--smallest", type=int, default=1, help="smallest pool that is measured")
    parser.add_argument("--calls", type=int, default=20, help="calls per replica and measurement")
    parser.add_argument("--batch-size", type=int, default=8, help="images in a call")
    parser.add_argument("--image-size", type=int, default=224, help="side of an image in pixels")
    parser.add_argument("--seconds-per-image", type=float, default=0.05, help="stand-in for the GPU's time")
    parser.add_argument("--wire-dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # The trainer's arithmetic is not what is measured, and its threads would wait for each other on busy cores.
    torch.set_num_threads(1)
    with on_loopback():
        ray.init("local", include_dashboard=False, log_to_driver=False)
    sizes = sorted({1, arguments.replicas, *(2**k for k in range(arguments.replicas.bit_length()))})
    print(f"{os.cpu_count()} cores, load of the last minute before the start {os.getloadavg()[0]:.1f}")
    print(
        "replicas  calls/s    ideal  ratio  CPU/call  cores   MB/s  waiting added median       p95 Ray median       p95"
    )
    rows = []
    for replicas in (size for size in sizes if arguments.smallest <= size <= arguments.replicas):
        rows.append(measure(arguments, replicas))
        print_row(rows[-1])
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key != "json"}
        arguments.json.write_text(
            json.dumps({"settings": settings, "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import ray
import torch
from torch import Tensor

from srpo_ray.config.rewards import PoolConfig, PythonRewardConfig
from srpo_ray.rewards.base import RewardError
from srpo_ray.rewards.pool.actors import start_router
from srpo_ray.rewards.pool.client import RewardClient
from srpo_ray.rewards.pool.messages import NAMESPACE, ModelInfo, PoolDescription
from srpo_ray.rewards.pool.pool import RewardPool
from srpo_ray.rewards.query import TextQuery


def client_with(pool: RewardPool, **changes: float) -> RewardClient:
    """A client of the pool with other limits than the pool's."""
    router = ray.get_actor(pool.name, namespace=NAMESPACE)
    description = cast(PoolDescription, ray.get(router.describe.remote()))
    config = description.config.model_copy(update=changes)
    changed = PoolDescription(config, description.models, description.groups)
    return RewardClient(router, changed, {"scripted": 1.0})


def score_and_gradient(client: RewardClient, *texts: str) -> tuple[Tensor, Tensor]:
    images = torch.rand(len(texts), 3, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    total = client.submit(images, [TextQuery.plain(text) for text in texts]).result().total
    total.square().sum().backward()
    assert images.grad is not None
    return total.detach(), images.grad


def kill_workers(log: Path, count: int) -> threading.Thread:
    """A thread that sends SIGKILL to the first `count` processes that write their pid into `log`."""

    def watch() -> None:
        killed = 0
        deadline = time.monotonic() + 60
        while killed < count and time.monotonic() < deadline:
            lines = log.read_text().splitlines(keepends=True) if log.exists() else []
            for line in lines[killed:]:
                if line.endswith("\n"):
                    os.kill(int(line), signal.SIGKILL)
                    killed += 1
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_replicas_killed_in_mid_call_are_restarted_and_the_replay_gives_the_same_result(
    pool: RewardPool, tmp_path: Path
) -> None:
    client = RewardClient.connect(pool.name, {"scripted": 1.0})
    undisturbed = score_and_gradient(client, "a", "b", "c")
    client.take_statistics()
    log = tmp_path / "pids"

    # Both replicas die under the call, so that only a restarted one can answer it.
    killer = kill_workers(log, count=2)
    disturbed = score_and_gradient(client, f"slow:2:{log}", "b", "c")
    killer.join()

    assert len(set(log.read_text().split())) == 3
    assert torch.equal(disturbed[0], undisturbed[0])
    assert torch.equal(disturbed[1], undisturbed[1])
    assert client.take_statistics()["pool/replays"] >= 2


@pytest.fixture(scope="module")
def impatient_pool(ray_cluster: None, scripted_config: PythonRewardConfig) -> Iterator[RewardPool]:
    """Two replicas that count as hung after two seconds."""
    config = PoolConfig(num_replicas=2, num_cpus=0.01, micro_batch_size=2, timeout_s=2.0)
    with RewardPool.create([scripted_config], [], config, "impatient") as running:
        yield running


def test_hung_replica_is_killed_after_the_timeout_and_the_call_replayed(
    impatient_pool: RewardPool, tmp_path: Path
) -> None:
    client = RewardClient.connect(impatient_pool.name, {"scripted": 1.0})
    expected = score_and_gradient(client, "a")
    log = tmp_path / "pids"
    started = time.perf_counter()

    result = score_and_gradient(client, f"slow:1:{log}")

    hung, answered = log.read_text().split()
    assert hung != answered
    assert 2.0 < time.perf_counter() - started < 60
    assert torch.equal(result[0], expected[0])
    assert torch.equal(result[1], expected[1])
    wait_for_end_of(int(hung))


def wait_for_end_of(pid: int) -> None:
    """Return when no such process runs any more; fail after 20 seconds."""
    status = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 20
    while status.exists() and " Z " not in status.read_text():
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.1)


def test_calls_that_queue_for_longer_than_the_timeout_are_not_lost(impatient_pool: RewardPool) -> None:
    client = RewardClient.connect(impatient_pool.name, {"scripted": 1.0})

    slow = [client.submit(torch.zeros(1, 3, 4, 4), [TextQuery.plain("sleep:1.2")]) for _ in range(6)]
    for pending in reversed(slow):
        pending.result()

    statistics = client.take_statistics()
    assert (statistics["pool/calls"], statistics["pool/replays"]) == (6, 0)


def test_call_that_is_lost_every_time_ends_in_an_error_after_the_stated_attempts(
    pool: RewardPool, tmp_path: Path
) -> None:
    client = client_with(pool, max_attempts=1)
    log = tmp_path / "pids"
    killer = kill_workers(log, count=1)
    pending = client.submit(torch.zeros(1, 3, 4, 4), [TextQuery.plain(f"slow:1:{log}")])

    with pytest.raises(RewardError, match=rf"no answer in 1 attempts.*'{pool.name}/\d' died") as caught:
        pending.result()

    killer.join()
    assert caught.value.reward == "scripted"
    assert str(log) in caught.value.prompts[0]


@pytest.mark.usefixtures("ray_cluster")
def test_client_of_a_pool_that_was_shut_down_gets_an_error() -> None:
    router = start_router("short-lived", {"short-lived": ()}, PoolConfig())
    models = {"mine": ModelInfo(image_size=4, image_gradient=True)}
    client = RewardClient(router, PoolDescription(PoolConfig(), models, {"short-lived": ("mine",)}), {"mine": 1.0})
    RewardPool("short-lived", router).shutdown()

    with pytest.raises(RewardError, match=r"'mine'.*the pool has ended"):
        client.submit(torch.zeros(1, 3, 4, 4), [TextQuery.plain("a")]).result()

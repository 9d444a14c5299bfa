import time

import pytest
import ray
import torch

from srpo_ray.config.count import CountRange
from srpo_ray.config.rewards import PoolConfig, PythonRewardConfig
from srpo_ray.rewards.pool.client import RewardClient
from srpo_ray.rewards.pool.messages import NAMESPACE, Loading
from srpo_ray.rewards.pool.pool import RewardPool
from srpo_ray.rewards.query import TextQuery


@pytest.mark.usefixtures("ray_cluster")
def test_pool_grows_under_a_queue_and_shrinks_when_it_has_no_work(scripted_config: PythonRewardConfig) -> None:
    config = PoolConfig(
        num_replicas=CountRange(min=1, max=2),
        num_cpus=0.01,
        max_ongoing_requests=2,
        upscale_queue_length=1,
        upscale_delay_s=1,
        downscale_delay_s=3,
    )
    with RewardPool.create([scripted_config], [], config, "ranged") as pool:
        router = ray.get_actor(pool.name, namespace=NAMESPACE)
        client = RewardClient.connect(pool.name, {"scripted": 1.0})
        assert ray.get(router.loading.remote()) == Loading(placed=1, loaded=1, replicas=1)

        deadline = time.monotonic() + 90
        while client.take_statistics()["pool/replicas"] < 2:
            assert time.monotonic() < deadline, "the pool did not grow"
            pending = [client.submit(torch.zeros(1, 3, 4, 4), [TextQuery.plain("sleep:0.3")]) for _ in range(8)]
            for one in pending:
                one.result()

        while ray.get(router.loading.remote()) != Loading(placed=1, loaded=1, replicas=1):
            assert time.monotonic() < deadline, "the pool did not shrink"
            time.sleep(0.2)

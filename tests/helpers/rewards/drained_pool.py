"""A pool on a cluster of several nodes, one of which is drained during a call; prints the results as JSON.

It runs in a separate process, because the drain of its nodes would affect other tests of a shared cluster.
"""

import json
import os
import time
from typing import Any

import ray
import torch
from ray.cluster_utils import Cluster

from srpo_ray.config.rewards import PoolConfig, PythonRewardConfig
from srpo_ray.rewards.pool.client import RewardClient
from srpo_ray.rewards.pool.messages import NAMESPACE, Loading
from srpo_ray.rewards.pool.pool import RewardPool
from srpo_ray.rewards.query import TextQuery
from tests.helpers.ray_drain import drain

NAME = "drained"
REWARD = PythonRewardConfig(name="scripted", target="tests.helpers.rewards.stand_in_rewards:ScriptedReward")


def node_in_service(router: Any) -> str:
    """Node of the replica that gets the next call."""
    assignment: Any = ray.get(router.assign.remote(NAME, 1))
    health: Any = ray.get(assignment.handle.ping.remote())
    ray.get(router.release.remote(assignment.request_id))
    return health.node_id


def main() -> None:
    """Drain the node of the only replica while it works on a call."""
    cluster = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False}, shutdown_at_exit=True)
    reward_nodes = [
        cluster.add_node(num_cpus=1, resources={"reward_slot": 1}, labels={"role": "reward"}).node_id for _ in range(2)
    ]
    # It has the resources and would be taken but for its label.
    cluster.add_node(num_cpus=1, resources={"reward_slot": 4}, labels={"role": "other"})
    ray.init(address=cluster.address, log_to_driver=False)
    pool = PoolConfig(num_cpus=0, resources={"reward_slot": 1}, labels={"role": "reward"})
    with RewardPool.create([REWARD], [], pool, NAME):
        client = RewardClient.connect(NAME, {"scripted": 1.0})
        router: Any = ray.get_actor(NAME, namespace=NAMESPACE)
        node = node_in_service(router)
        pending = client.submit(torch.ones(1, 3, 4, 4), [TextQuery.plain("sleep:8")])
        drain(str(cluster.address), node, seconds=120)
        deadline = time.monotonic() + 60
        while replicas_of(router)[1] < 2:
            assert time.monotonic() < deadline, "the drain was not seen"
            time.sleep(0.1)
        # The replica on the drained node is still at work; this call is for another.
        values = [client.submit(torch.ones(1, 3, 4, 4), [TextQuery.plain("a")]).result().total.item()]
        other = node_in_service(router)
        values.append(pending.result().total.item())
        deadline = time.monotonic() + 30
        while replicas_of(router) != [1, 1] and time.monotonic() < deadline:
            time.sleep(0.2)
        left = replicas_of(router)
        replays = client.take_statistics()["pool/replays"]
    ray.shutdown()
    cluster.shutdown()
    moved = [reward_nodes.index(node), reward_nodes.index(other)]
    print(json.dumps({"nodes": moved, "values": values, "replicas_left": left, "replays": replays}))


def replicas_of(router: Any) -> list[int]:
    """Replicas in service, and all replicas."""
    loading: Loading = ray.get(router.loading.remote())
    return [loading.loaded, loading.replicas]


if __name__ == "__main__":
    os.environ["RAY_AUTH_MODE"] = "disabled"
    main()

"""A replica for each model: the same numbers as all models in one process."""

from collections.abc import Iterator

import pytest
import ray
import torch
from torch import Tensor

from srpo_ray.config import load_run
from srpo_ray.config.rewards import PoolConfig, PythonRewardConfig
from srpo_ray.launch.train import reward_pool
from srpo_ray.rewards.base import RewardError, RewardScorer
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.pool.client import RewardClient
from srpo_ray.rewards.pool.messages import NAMESPACE
from srpo_ray.rewards.pool.pool import RewardPool
from srpo_ray.rewards.query import TextQuery
from tests.conftest import SMALL_WORLD

QUERIES = [
    TextQuery.plain("a cat"),
    TextQuery(((1.1, "Real. a dog"), (-1.0, "Painting. a dog"))),
    TextQuery.plain("a red circle"),
    TextQuery(((0.3, "a cat"), (0.7, "a bird"))),
    TextQuery.plain("a house"),
]


def curved(name: str, size: int, weight: float) -> PythonRewardConfig:
    arguments: dict[str, str | int | float | bool] = {"image_size": size, "seed": ord(name)}
    target = "tests.helpers.rewards.stand_in_rewards:CurvedReward"
    return PythonRewardConfig(name=name, target=target, arguments=arguments, weight=weight)


MODELS = (
    curved("a", 8, 0.7),
    curved("b", 12, -2.0),
    PythonRewardConfig(
        name="scripted",
        target="tests.helpers.rewards.stand_in_rewards:ScriptedReward",
        arguments={"image_size": 8},
        weight=40.0,
    ),
)
WEIGHTS = {model.name: model.weight for model in MODELS}


@pytest.fixture(scope="module")
def split_pool(ray_cluster: None) -> Iterator[RewardPool]:
    """One replica of each of three models, each with one request slot."""
    config = PoolConfig(one_model_each=True, num_cpus=0.01, micro_batch_size=2, max_ongoing_requests=1)
    with RewardPool.create(MODELS, (), config, "split") as running:
        yield running


def random_images(seed: int) -> Tensor:
    return torch.rand(len(QUERIES), 3, 20, 28, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def two_branches(scorer: RewardScorer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Totals and gradients of two batches, both submitted before either is collected, as SRPO does."""
    first, second = random_images(0), random_images(1)
    upstream = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])
    pending = [scorer.submit(first, QUERIES), scorer.submit(second, QUERIES)]
    totals = [one.result().total for one in pending]
    (upstream * (totals[0] - 0.5 * totals[1])).sum().backward()
    assert first.grad is not None
    assert second.grad is not None
    return totals[0].detach(), totals[1].detach(), first.grad, second.grad


def test_values_and_gradients_of_a_replica_per_model_equal_those_of_one_process(split_pool: RewardPool) -> None:
    # Three micro-batches, three models and two branches: 18 calls, of which the pool takes three at a time.
    remote = two_branches(RewardClient.connect(split_pool.name, WEIGHTS))

    local = two_branches(LocalRewards.load(MODELS, micro_batch_size=2))
    for ours, in_process in zip(remote, local, strict=True):
        assert relative_error(ours, in_process) < 1e-6


def test_each_model_gets_a_separate_call_and_pixels_of_one_input_spec_are_stored_once(split_pool: RewardPool) -> None:
    client = RewardClient.connect(split_pool.name, WEIGHTS)

    scores = client.submit(random_images(0), QUERIES).result()

    statistics = client.take_statistics()
    assert list(scores.raw) == ["a", "b", "scripted"]
    assert statistics["pool/calls"] == 3 * 3
    assert statistics["pool/bytes_sent"] == 4 * len(QUERIES) * 3 * (8**2 + 12**2)
    assert statistics["pool/replicas"] == 1


def test_measure_calls_the_replicas_of_the_named_models_only(split_pool: RewardPool) -> None:
    client = RewardClient.connect(split_pool.name, WEIGHTS)
    images = random_images(0).detach()

    values = client.measure(images, QUERIES, ["b", "scripted"])

    assert client.take_statistics()["pool/calls"] == 3 * 2
    expected = LocalRewards.load(MODELS).measure(images, QUERIES, ["b", "scripted"])
    assert list(values) == ["b", "scripted"]
    for name, value in values.items():
        assert relative_error(value, expected[name]) < 1e-6
    assert list(client.measure(images, QUERIES)) == ["a", "b", "scripted"]


def test_submit_waits_for_a_slot_and_reports_the_time(split_pool: RewardPool) -> None:
    client = RewardClient.connect(split_pool.name, {"scripted": 1.0})
    slow = [TextQuery.plain("sleep:0.5")] * 6

    # Three calls of two images: the third is sent when the first has ended.
    pending = client.submit(torch.zeros(6, 3, 8, 8), slow)
    pending.result()

    statistics = client.take_statistics()
    assert statistics["time/reward_slot"] > 0.5
    assert statistics["time/reward_wait"] > 2.5


def test_failure_names_the_replica_of_its_model(split_pool: RewardPool) -> None:
    client = RewardClient.connect(split_pool.name, {"a": 1.0, "scripted": 1.0})
    pending = client.submit(torch.zeros(1, 3, 8, 8), [TextQuery.plain("raise")])
    with pytest.raises(RewardError) as caught:
        pending.result()
    assert caught.value.replica == "split/scripted/0"


@pytest.mark.usefixtures("ray_cluster")
def test_pool_asks_for_nodes_with_its_labels() -> None:
    config = load_run([SMALL_WORLD], ["rewards.pool.labels={role: reward}"])

    with pytest.raises(ValueError, match=r"run 0 such replicas on nodes labelled \{'role': 'reward'\}"):
        reward_pool(config, "labelled").__enter__()

    with pytest.raises(ValueError, match="labelled"):
        ray.get_actor("labelled", namespace=NAMESPACE)

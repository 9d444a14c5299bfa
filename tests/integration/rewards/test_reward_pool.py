import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from torch import Tensor

from srpo_ray.config import load_run
from srpo_ray.config.rewards import OpenClipRewardConfig, PoolConfig, PythonRewardConfig, RewardModelConfig
from srpo_ray.launch.train import reward_pool
from srpo_ray.rewards.base import RewardError, RewardScorer, ScoreRequest
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.pool.client import RewardClient
from srpo_ray.rewards.pool.messages import NAMESPACE
from srpo_ray.rewards.pool.opening import Opening
from srpo_ray.rewards.pool.pool import RewardPool
from srpo_ray.rewards.pool.request import StoredPixels
from srpo_ray.rewards.preprocess import frame
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.registry import build_rewards
from tests.conftest import SMALL_WORLD

QUERIES = [
    TextQuery.plain("a cat"),
    TextQuery(((1.1, "Real. a dog"), (-1.0, "Painting. a dog"))),
    TextQuery.plain("a red circle"),
    TextQuery(((0.3, "a cat"), (0.7, "a bird"))),
    TextQuery.plain("a house"),
]
BATCH = len(QUERIES)


def plain(*texts: str) -> list[TextQuery]:
    return [TextQuery.plain(text) for text in texts]


def gray(batch: int) -> Tensor:
    return torch.full((batch, 3, 4, 4), 0.25)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def direct_loss_and_gradient(
    configs: Sequence[RewardModelConfig], images: Tensor, upstream: Tensor
) -> tuple[Tensor, Tensor]:
    """Plain autograd through resize and models, all images in one batch: no bridge, no splitting, no pool."""
    leaf = images.clone().requires_grad_()
    rewards = build_rewards(configs)
    total = torch.zeros(len(images))
    for config in configs:
        reward = rewards[config.name]
        total = total + config.weight * reward.score(frame(leaf, InputSpec(reward.image_size)), QUERIES)
    (upstream * total).sum().backward()
    assert leaf.grad is not None
    return total.detach(), leaf.grad


def loss_and_gradient(scorer: RewardScorer, images: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    leaf = images.clone().requires_grad_()
    total = scorer.submit(leaf, QUERIES).result().total
    (upstream * total).sum().backward()
    assert leaf.grad is not None
    return total.detach(), leaf.grad


def test_remote_value_and_gradient_equal_the_local_scorer_and_direct_autograd(
    clip_pool: RewardPool, clip_configs: tuple[OpenClipRewardConfig, ...]
) -> None:
    images = torch.rand(BATCH, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    upstream = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])
    client = RewardClient.connect(clip_pool.name, {config.name: config.weight for config in clip_configs})

    remote = loss_and_gradient(client, images, upstream)

    local = loss_and_gradient(LocalRewards.load(clip_configs, micro_batch_size=2), images, upstream)
    direct = direct_loss_and_gradient(clip_configs, images, upstream)
    for ours, in_process, reference in zip(remote, local, direct, strict=True):
        assert ours.dtype == torch.float32
        assert relative_error(ours, in_process) < 1e-6
        # One batch of 5 rounds differently from batches of 2, 2 and 1, and the two rewards nearly cancel.
        assert relative_error(ours, reference) < 1e-5


def test_raw_scores_are_those_of_each_model_and_detached(
    clip_pool: RewardPool, clip_configs: tuple[OpenClipRewardConfig, ...]
) -> None:
    images = torch.rand(BATCH, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    client = RewardClient.connect(clip_pool.name, {"large": 0.5, "small": 4.0})

    scores = client.submit(images.requires_grad_(), QUERIES).result()

    assert list(scores.raw) == ["large", "small"]
    assert relative_error(scores.total.detach(), 0.5 * scores.raw["large"] + 4.0 * scores.raw["small"]) < 1e-6
    for name, reward in build_rewards(clip_configs).items():
        expected = reward.score(frame(images.detach(), InputSpec(reward.image_size)), QUERIES)
        assert not scores.raw[name].requires_grad
        assert relative_error(scores.raw[name], expected) < 1e-5


@pytest.mark.parametrize("official", [False, True])
def test_measure_returns_all_models_held_out_ones_too(
    clip_pool: RewardPool,
    clip_configs: tuple[OpenClipRewardConfig, ...],
    scripted_config: PythonRewardConfig,
    official: bool,
) -> None:
    images = torch.rand(BATCH, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    client = RewardClient.connect(clip_pool.name, {"small": 1.0}, official=official)

    values = client.measure(images, QUERIES)

    expected = LocalRewards.load(clip_configs, [scripted_config], official=official).measure(images, QUERIES)
    assert list(values) == ["small", "large", "scripted"]
    for name, value in values.items():
        assert not value.requires_grad
        assert relative_error(value, expected[name]) < 1e-5
    assert list(client.measure(images, QUERIES, ["scripted"])) == ["scripted"]


def test_requests_for_the_same_images_send_them_once_and_equal_single_measurements(
    clip_pool: RewardPool, clip_configs: tuple[OpenClipRewardConfig, ...], scripted_config: PythonRewardConfig
) -> None:
    images = torch.rand(BATCH, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    relative = [TextQuery.relative(f"{index}", ("detailed",), ("flat",)) for index in range(BATCH)]
    requests = [ScoreRequest(QUERIES), ScoreRequest(relative, ["large", "small"]), ScoreRequest(QUERIES, ["small"])]
    client = RewardClient.connect(clip_pool.name, {"small": 1.0})
    client.measure(images, QUERIES)
    once = client.take_statistics()

    pending = client.request(images, requests)
    found = [each.result() for each in pending]

    statistics = client.take_statistics()
    assert statistics["pool/bytes_sent"] == once["pool/bytes_sent"]
    assert statistics["pool/calls"] == 3 * once["pool/calls"]
    assert [list(each) for each in found] == [["small", "large", "scripted"], ["large", "small"], ["small"]]
    local = LocalRewards.load(clip_configs, [scripted_config])
    assert client.models == local.models == ("small", "large", "scripted")
    for values, here, request in zip(found, local.request(images, requests), requests, strict=True):
        alone = client.measure(images, request.queries, request.names)
        for name, value in values.items():
            assert torch.equal(value, alone[name])
            assert relative_error(value, here.result()[name]) < 1e-5


def test_calls_with_the_same_images_follow_each_other(clip_pool: RewardPool, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(BATCH, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    sent: list[tuple[int, str]] = []
    send_part = RewardClient._send_part

    def record(client: RewardClient, part: StoredPixels, queries: Sequence[TextQuery], *others: Any) -> Any:
        sent.append((id(part), str(queries[0])))
        return send_part(client, part, queries, *others)

    monkeypatch.setattr(RewardClient, "_send_part", record)
    client = RewardClient.connect(clip_pool.name, {"small": 1.0})
    for pending in client.request(images, [ScoreRequest(QUERIES), ScoreRequest(QUERIES[::-1])]):
        pending.result()
    parts = [part for part, _ in sent]
    assert len(set(parts)) > 1
    assert parts == [part for part in dict.fromkeys(parts) for _ in range(2)]
    assert {query for _, query in sent[:2]} == {str(QUERIES[0]), str(QUERIES[-1])}


def test_request_for_an_unknown_model_is_refused_before_anything_is_sent(pool: RewardPool) -> None:
    client = RewardClient.connect(pool.name, {"scripted": 1.0})
    with pytest.raises(ValueError, match="'other'"):
        client.request(gray(2), [ScoreRequest(QUERIES[:2]), ScoreRequest(QUERIES[:2], ["other"])])
    assert client.take_statistics()["pool/bytes_sent"] == 0


def test_images_without_gradient_are_scored_without_one(pool: RewardPool) -> None:
    client = RewardClient.connect(pool.name, {"scripted": 3.0})

    scores = client.submit(gray(3), QUERIES[:3]).result()

    assert scores.total.tolist() == pytest.approx([1.5] * 3)
    assert not scores.total.requires_grad


def test_submit_returns_before_the_score_is_done(pool: RewardPool) -> None:
    client = RewardClient.connect(pool.name, {"scripted": 1.0})
    started = time.perf_counter()

    pending = client.submit(gray(1).requires_grad_(), plain("sleep:1.5"))
    submitted = time.perf_counter() - started
    pending.result()
    done = time.perf_counter() - started

    assert submitted < 0.75
    assert done > 1.5


def test_statistics_separate_waiting_from_concurrent_work(pool: RewardPool) -> None:
    client = RewardClient.connect(pool.name, {"scripted": 1.0})
    pending = client.submit(gray(1), plain("sleep:0.5"))
    time.sleep(1.0)
    pending.result()

    statistics = client.take_statistics()

    assert statistics["time/reward_wait"] < 0.4
    assert 0.5 <= statistics["time/reward_compute"] < 0.9
    assert statistics["time/reward_round_trip"] >= 1.0
    assert statistics["pool/bytes_sent"] == 3 * 4 * 4 * 4
    assert (statistics["pool/calls"], statistics["pool/replays"]) == (1, 0)
    assert client.take_statistics()["pool/calls"] == 0


def test_busy_replica_gets_no_second_call_while_another_is_idle(pool: RewardPool, tmp_path: Path) -> None:
    client = RewardClient.connect(pool.name, {"scripted": 1.0})
    log = tmp_path / "calls"
    busy = client.submit(gray(1), plain(f"log:2:{log}"))

    for _ in range(4):
        client.submit(gray(1), plain(f"log:0.1:{log}")).result()
    busy.result()

    *short_pids, long_pid = log.read_text().split()
    assert len(short_pids) == 4
    assert len(set(short_pids)) == 1
    assert long_pid not in short_pids


def test_calls_of_one_batch_are_spread_over_the_replicas(pool: RewardPool, tmp_path: Path) -> None:
    client = RewardClient.connect(pool.name, {"scripted": 1.0})
    log = tmp_path / "calls"

    client.submit(gray(4), plain(f"log:0.2:{log}", "a", "b", f"log:0.2:{log}")).result()

    assert len(set(log.read_text().split())) == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("raise", "KeyError: 'the reward is broken'"),
        ("nan", "the score of sample 0 is NaN"),
        ("nan_gradient", "the gradient of sample 0 is NaN"),
    ],
)
def test_failing_reward_stops_with_its_name_prompt_and_replica_and_no_score(
    pool: RewardPool, text: str, complaint: str
) -> None:
    client = RewardClient.connect(pool.name, {"scripted": 1.0})
    pending = client.submit(gray(3).requires_grad_(), plain("fine", "fine", text))

    with pytest.raises(RewardError, match=complaint) as caught:
        pending.result()

    assert (caught.value.reward, caught.value.prompts) == ("scripted", (repr(text),))
    assert caught.value.replica in {f"{pool.name}/0", f"{pool.name}/1"}
    assert client.take_statistics()["pool/replays"] == 0
    assert client.submit(gray(1), plain("fine")).result().total.tolist() == pytest.approx([0.5])


def test_clients_in_two_processes_use_one_pool_with_their_own_weights(pool: RewardPool) -> None:
    @ray.remote(num_cpus=0)
    def score_in_another_process(pool_name: str, weight: float) -> list[float]:
        client = RewardClient.connect(pool_name, {"scripted": weight})
        images = torch.full((3, 3, 4, 4), 0.25, requires_grad=True)
        return client.submit(images, [TextQuery.plain("a")] * 3).result().total.tolist()

    elsewhere = score_in_another_process.remote(pool.name, 10.0)
    here = RewardClient.connect(pool.name, {"scripted": -1.0}).submit(gray(5), QUERIES).result()

    assert here.total.tolist() == pytest.approx([-0.5] * 5)
    assert ray.get(elsewhere) == pytest.approx([5.0] * 3)


def test_connecting_to_no_pool_or_unknown_model_is_refused(pool: RewardPool) -> None:
    with pytest.raises(ValueError, match=r"named 'nowhere'.*RewardPool.create"):
        RewardClient.connect("nowhere", {"scripted": 1.0})
    with pytest.raises(ValueError, match=r"\['typo'\]"):
        RewardClient.connect(pool.name, {"typo": 1.0})


def test_second_pool_of_the_same_name_is_refused(pool: RewardPool, scripted_config: PythonRewardConfig) -> None:
    with pytest.raises(ValueError, match="already taken"):
        RewardPool.create([scripted_config], [], PoolConfig(num_cpus=0.01), pool.name)


@pytest.mark.usefixtures("ray_cluster")
def test_pool_larger_than_the_cluster_is_refused_without_waiting() -> None:
    config = load_run([SMALL_WORLD], ["rewards.pool.num_replicas=3", "rewards.pool.resources={reward_slot: 1}"])
    started = time.perf_counter()

    with pytest.raises(ValueError, match=r"num_replicas: 3.*can run 0 such replicas.*'reward_slot': 0"):
        reward_pool(config, "too-large").__enter__()

    assert time.perf_counter() - started < 5


@pytest.mark.usefixtures("ray_cluster")
def test_model_that_cannot_be_loaded_fails_the_creation_and_frees_the_name() -> None:
    config = OpenClipRewardConfig(name="missing", path="/no/such/folder")

    with pytest.raises(ValueError, match=r"'missing'.*/no/such/folder"):
        RewardPool.create([config], [], PoolConfig(num_cpus=0.01), "fails-to-load")

    with pytest.raises(ValueError, match="fails-to-load"):
        ray.get_actor("fails-to-load", namespace=NAMESPACE)


@pytest.mark.usefixtures("ray_cluster")
def test_pool_that_is_only_placed_is_awaited_and_tells_why_it_cannot_be_opened(
    scripted_config: PythonRewardConfig,
) -> None:
    settings, missing = PoolConfig(num_cpus=0.01), OpenClipRewardConfig(name="missing", path="/no/such/folder")
    with RewardPool.create([scripted_config], [], settings, "placed", until="placed"):
        Opening(["placed"]).wait()
        RewardClient.connect("placed", {scripted_config.name: 1.0})
    with (
        RewardPool.create([missing], [], settings, "placed-missing", until="placed"),
        pytest.raises(ValueError, match=r"'missing'.*/no/such/folder"),
    ):
        Opening(["placed-missing"]).wait()

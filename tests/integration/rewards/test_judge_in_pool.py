"""Judges in the reward pool, against a stand-in server whose answers are functions of the images that it receives."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from srpo_ray.cli import main
from srpo_ray.config import load_run
from srpo_ray.config.rewards import PoolConfig, PythonRewardConfig
from srpo_ray.config.served_rewards import JudgeRewardConfig
from srpo_ray.planning.served import server_work
from srpo_ray.rewards.base import RewardError
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.pool.client import RewardClient
from srpo_ray.rewards.pool.pool import RewardPool
from srpo_ray.rewards.query import TextQuery
from srpo_ray.runs.folder import RunFolder, read_rows
from tests.conftest import ROOT, SMALL_WORLD, TINY
from tests.helpers.rewards.bright_judge import bright_answer, brightness_of
from tests.helpers.rewards.http_server import Reply, Seen, http_server

pytestmark = pytest.mark.usefixtures("ray_cluster")

PAIRS = [(0, 1), (0, 2), (1, 2), (3, 4), (2, 0)]
QUERIES = [TextQuery.plain("a cat")] * 3 + [TextQuery.plain("a dog")] * 2


def judge_at(url: str, **more: Any) -> dict[str, Any]:
    return {"name": "judge", "type": "judge", "url": url, "model": "tiny", "image_size": 32, "max_attempts": 1, **more}


def test_comparisons_in_the_pool_are_those_in_process_for_models_of_every_kind(
    scripted_config: PythonRewardConfig,
) -> None:
    images = torch.rand(5, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    failing: list[bool] = []
    with http_server(lambda body: Reply({}, status=400) if failing else bright_answer(body, 0.7)) as server:
        judge = JudgeRewardConfig(**judge_at(server.url, comparison="choice"))
        config = PoolConfig(num_cpus=0.01, micro_batch_size=2, one_model_each=True)
        with RewardPool.create([judge], [scripted_config], config, "judges") as pool:
            client = RewardClient.connect(pool.name, {"judge": 1.0})
            assert (client.pairwise, client.trained) == ({"judge"}, ("judge",))
            found = client.compare(images, QUERIES, PAIRS, ["judge", "scripted"]).result()
            assert list(client.compare(images, QUERIES, PAIRS[:1]).result()) == ["judge"]
            failing.append(True)
            with pytest.raises(RewardError, match=r"(?s)'judge' failed on 'judges.*'a cat'.*HTTP 400"):
                client.compare(images, QUERIES, PAIRS).result()
        failing.clear()
        local = LocalRewards.load([judge], [scripted_config])
        alone = local.compare(images, QUERIES, PAIRS, ["judge", "scripted"]).result()

    for name, expected in alone.items():
        assert found[name].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    means = images.mean(dim=(1, 2, 3))
    assert found["scripted"].tolist() == [float(means[i] > means[j]) for i, j in PAIRS]
    # The last pair is the second one swapped.
    assert found["judge"][4].item() == pytest.approx(1 - found["judge"][1].item(), abs=1e-5)


def train(server: Seen, method: str, tmp_path: Path, rewards: Sequence[Any], *more: str) -> tuple[list[str], RunFolder]:
    """Two updates of a method on the small world by the command line; its words, and the run's folder."""
    held_out = [{**judge_at(server.url), "name": "bright", "model": "another"}]
    overrides = [
        *TINY,
        f"run_root={tmp_path}",
        "training.num_updates=2",
        "training.batch_size=2",
        "algorithm.group_size=3",
        f"rewards.models={json.dumps(rewards)}",
        f"evaluation.held_out={json.dumps(held_out)}",
        "evaluation.relative=null",
        *more,
    ]
    words = [str(SMALL_WORLD), str(ROOT / "configs" / "algorithms" / f"{method}.yaml"), *overrides]
    assert main(["train", *words]) == 0
    return words, RunFolder(tmp_path / method)


def asked(server: Seen, model: str, images: int) -> list[list[float]]:
    """Brightness of the images of each request to a model about so many images."""
    found = [brightness_of(body) for body in server.bodies if body["model"] == model]
    return [levels for levels in found if len(levels) == images]


def test_run_trains_and_is_evaluated_by_judges_through_the_pool(tmp_path: Path) -> None:
    with http_server(bright_answer) as server:
        _, folder = train(server, "dance_grpo", tmp_path, [judge_at(server.url)])

    updates, evaluations = read_rows(folder.updates), read_rows(folder.evaluations)
    assert [row["update"] for row in updates] == [1, 2]
    assert all(row["update/gradient_norm"] > 0 for row in updates)
    # The stand-in's score is the brightness of the image, which the run measures by itself.
    for row in evaluations:
        assert row["evaluator/bright"] == pytest.approx(row["image/brightness"], abs=2e-3)
        assert row["reward/judge"] == pytest.approx(row["evaluator/bright"], abs=1e-5)
    # One grey image when the judge is loaded; then the evaluations, and six images of each update.
    levels = [levels[0] for levels in asked(server, "tiny", 1)]
    trained = len(levels) - 1 - 4 * len(evaluations)
    assert trained == 2 * 6
    rewards = [row["reward/judge/sample"] for row in updates]
    evaluated = [row["reward/judge"] for row in evaluations]
    assert sum(levels[1:]) == pytest.approx(6 * sum(rewards) + 4 * sum(evaluated), abs=1e-2)


def test_run_of_win_rates_compares_all_pairs_in_both_orders_as_planned(tmp_path: Path) -> None:
    with http_server(bright_answer) as server:
        words, folder = train(server, "pref_grpo", tmp_path, [judge_at(server.url, comparison="choice")])

    (work,) = server_work(load_run(words[:2], words[2:]))
    assert work.comparisons == 2 * 3 * 2
    pairs = asked(server, "tiny", 2)
    # Two grey images in both orders when the judge is loaded.
    assert len(pairs) == 2 + 2 * work.comparisons
    orders = {(first, second) for first, second in pairs[2:]}
    assert {(second, first) for first, second in orders} == orders
    assert all(row["update/gradient_norm"] > 0 for row in read_rows(folder.updates))

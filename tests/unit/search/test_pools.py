"""Reward pools of an experiment: runs with other reward models get a pool of their own."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.search import pools as pools_module
from srpo_ray.search.pools import pool_key, pool_of, reward_pools
from tests.conftest import SMALL_WORLD

BASE = load_run([SMALL_WORLD])
OTHER = [{"name": "preference", "type": "open_clip", "path": "small_world:preference_biased"}]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """Pools that were started: first model's path, name, replicas of the pools beside it."""
    made: list[tuple[str, str, int]] = []

    @contextmanager
    def pool(config: RunConfig, name: str, others: int, meanwhile: object, until: object) -> Iterator[str | None]:
        made.append((config.rewards.models[0].model_dump()["path"], name, others))
        yield None if config.rewards.in_process else name

    monkeypatch.setattr(pools_module, "reward_pool", pool)
    return made


def test_an_arm_with_other_weights_of_the_same_name_gets_its_own_pool(started: list[tuple[str, str, int]]) -> None:
    arm = apply(BASE, {"rewards.models": OTHER})
    with reward_pools([BASE, arm, BASE], "rewards") as pools:
        assert pool_of(pools, BASE) == "rewards"
        assert pool_of(pools, arm) == "rewards_2"
    assert started == [("small_world:preference", "rewards", 0), ("small_world:preference_biased", "rewards_2", 1)]


@pytest.mark.parametrize(
    "changes",
    [
        {"rewards.models.0.weight": 0.25},
        {"training.optimizer.lr": 1e-6, "seed": 3, "algorithm.query": "plain", "algorithm.branches": ["denoise"]},
    ],
)
def test_runs_that_differ_in_weights_or_settings_share_a_pool(changes: dict[str, object]) -> None:
    assert pool_key(apply(BASE, changes)) == pool_key(BASE)


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluation.held_out": [{"name": "held_out", "type": "open_clip", "path": "small_world:preference_biased"}]},
        {"rewards.pool.wire_dtype": "bfloat16"},
        {"rewards.in_process": True},
    ],
)
def test_runs_that_differ_in_judges_or_the_pool_itself_do_not_share_it(changes: dict[str, object]) -> None:
    assert pool_key(apply(BASE, changes)) != pool_key(BASE)


@pytest.mark.usefixtures("started")
def test_a_run_without_a_pool_for_its_models_is_refused_and_not_scored_by_others() -> None:
    with (
        reward_pools([BASE], "rewards") as pools,
        pytest.raises(ValueError, match="expected a reward pool for the models of small_world"),
    ):
        pool_of(pools, apply(BASE, {"rewards.models": OTHER}))

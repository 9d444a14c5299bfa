"""Two pools for all tests of the rewards, because starting them takes most of the time."""

from collections.abc import Iterator

import pytest

from srpo_ray.config.rewards import OpenClipRewardConfig, PoolConfig, PythonRewardConfig
from srpo_ray.rewards.pool.pool import RewardPool


@pytest.fixture(scope="package")
def clip_configs(tmp_path_factory: pytest.TempPathFactory) -> tuple[OpenClipRewardConfig, ...]:
    """Two tiny CLIP rewards of different image size and weight."""
    from tests.helpers.rewards.tiny_clip import save_tiny_clip  # takes seconds, and most tests need no open_clip

    folder = tmp_path_factory.mktemp("clips")
    return (
        OpenClipRewardConfig(
            name="small", path=str(save_tiny_clip(folder / "small", 16, seed=1)), weight=0.7, scale=3.0
        ),
        OpenClipRewardConfig(name="large", path=str(save_tiny_clip(folder / "large", 24, seed=2)), weight=-2.0),
    )


@pytest.fixture(scope="package")
def scripted_config() -> PythonRewardConfig:
    return PythonRewardConfig(
        name="scripted", target="tests.helpers.rewards.stand_in_rewards:ScriptedReward", arguments={"scale": 2.0}
    )


@pytest.fixture(scope="package")
def clip_pool(
    ray_cluster: None, clip_configs: tuple[OpenClipRewardConfig, ...], scripted_config: PythonRewardConfig
) -> Iterator[RewardPool]:
    """Two training rewards and a held-out evaluator; one replica, because importing open_clip takes seconds."""
    config = PoolConfig(num_cpus=0.01, micro_batch_size=2)
    with RewardPool.create(clip_configs, [scripted_config], config, "clips") as running:
        yield running


@pytest.fixture(scope="package")
def pool(ray_cluster: None, scripted_config: PythonRewardConfig) -> Iterator[RewardPool]:
    """Two replicas of a reward whose behaviour the query's text controls."""
    config = PoolConfig(num_replicas=2, num_cpus=0.01, micro_batch_size=2)
    with RewardPool.create([scripted_config], [], config, "scripted") as running:
        yield running

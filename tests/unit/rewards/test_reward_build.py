from typing import get_args

import pytest

from srpo_ray.config.rewards import OpenClipRewardConfig, PythonRewardConfig, RewardModelConfig
from srpo_ray.rewards.base import RewardError
from srpo_ray.rewards.registry import BUILDERS, build_rewards


def python_reward(target: str, **arguments: str | int | float | bool) -> PythonRewardConfig:
    return PythonRewardConfig(name="mine", target=target, arguments=arguments)


def test_rewards_are_built_in_the_order_of_the_config(clip_configs: tuple[OpenClipRewardConfig, ...]) -> None:
    scripted = python_reward("tests.helpers.rewards.stand_in_rewards:ScriptedReward", image_size=6)

    rewards = build_rewards([scripted, *clip_configs])

    assert [(name, reward.name, reward.image_size) for name, reward in rewards.items()] == [
        ("mine", "mine", 6),
        ("small", "small", 16),
        ("large", "large", 24),
    ]


def test_every_config_type_has_a_builder() -> None:
    union, *_ = get_args(RewardModelConfig)

    assert set(BUILDERS) == {kind.model_fields["type"].default for kind in get_args(union)}


def test_repeated_name_is_refused() -> None:
    config = python_reward("tests.helpers.rewards.stand_in_rewards:ScriptedReward")

    with pytest.raises(ValueError, match=r"'mine' twice.*rename"):
        build_rewards([config, config])


@pytest.mark.parametrize("target", ["no_such_module:Reward", "tests.helpers.rewards.stand_in_rewards:NoSuchClass"])
def test_reward_that_cannot_be_imported_names_key_and_cure(target: str) -> None:
    with pytest.raises(ValueError, match=rf"'mine', key `target`.*{target}.*PYTHONPATH"):
        build_rewards([python_reward(target)])


def test_arguments_that_do_not_fit_the_class_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'mine'.*\{'colour': 3\}.*colour"):
        build_rewards([python_reward("tests.helpers.rewards.stand_in_rewards:ScriptedReward", colour=3)])


def test_class_without_the_interface_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'mine'.*without image_gradient, score"):
        build_rewards([python_reward("tests.helpers.rewards.stand_in_rewards:NotAReward")])


def test_class_that_raises_is_named() -> None:
    with pytest.raises(RewardError, match=r"'mine'.*OSError: the weights are gone"):
        build_rewards([python_reward("tests.helpers.rewards.stand_in_rewards:FailsToLoad")])

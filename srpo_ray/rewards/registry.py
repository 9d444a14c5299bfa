"""Registry of reward types: builds the reward models of a config."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from srpo_ray.config.rewards import PythonRewardConfig, RewardModelConfig
from srpo_ray.credentials import expand
from srpo_ray.rewards.base import Reward
from srpo_ray.rewards.combine import RewardCall
from srpo_ray.rewards.models.aesthetic import AestheticReward
from srpo_ray.rewards.models.image_reward import ImageReward
from srpo_ray.rewards.models.open_clip import OpenClipReward
from srpo_ray.rewards.models.transformers_clip import load_transformers_clip
from srpo_ray.rewards.served.http_scores import HttpReward
from srpo_ray.rewards.served.judge import JudgeReward
from srpo_ray.rewards.served.ocr import OcrReward, quoted_text
from srpo_ray.rewards.served.questions import QuestionsReward, questions_of, read_questions


def build_rewards(configs: Sequence[RewardModelConfig], device: str = "cpu") -> dict[str, Reward]:
    """Load every configured model, in order.

    Args:
        configs: The models; names must be unique.
        device: Device of all models but Python rewards, which choose their own.

    Raises:
        ValueError: If a name is repeated, or a model cannot be found, read or called with its arguments.
        RewardError: If the constructor of a Python reward raises.
    """
    rewards: dict[str, Reward] = {}
    for config in configs:
        if config.name in rewards:
            raise ValueError(
                f"expected unique reward names, received {config.name!r} twice; rename one in `rewards.models` "
                "or in the held-out models"
            )
        rewards[config.name] = BUILDERS[config.type](config, device)
    return rewards


def build_python_reward(config: PythonRewardConfig, _device: str) -> Reward:
    """Import `package.module:Class`, call it with the config's arguments and set the config's name.

    Raises:
        ValueError: If the class cannot be imported, does not take the arguments or lacks the `Reward` interface, or an
            argument names an environment variable that is not set.
        RewardError: If the class itself raises.
    """
    module_name, class_name = config.target.split(":")
    where = f"reward {config.name!r}, key `target`"
    try:
        reward_class = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{where}: expected an importable package.module:Class, received {config.target!r} ({error}); install "
            "the package or put its folder on PYTHONPATH on every node"
        ) from error
    try:
        inspect.signature(reward_class).bind(**config.arguments)
    except TypeError as error:
        raise ValueError(
            f"{where}: expected arguments that {config.target} takes, received {config.arguments} ({error}); correct "
            "`arguments`"
        ) from error
    arguments = {key: expand(value) if isinstance(value, str) else value for key, value in config.arguments.items()}
    with RewardCall(config.name, (), "load"):
        reward = reward_class(**arguments)
    missing = [attribute for attribute in ("image_size", "image_gradient", "score") if not hasattr(reward, attribute)]
    if missing:
        raise ValueError(
            f"{where}: expected an object with image_size, image_gradient and score, received {config.target} "
            f"without {', '.join(missing)}; see srpo_ray.rewards.base.Reward"
        )
    reward.name = config.name
    return reward


def declares_image_gradient(config: RewardModelConfig) -> bool:
    """Test whether a model's class declares itself differentiable in the images, without instantiating it.

    True also if the class cannot be imported here or only its objects declare it; then the first score that is
    requested with a gradient raises the error.
    """
    if config.type != "python":
        return config.image_gradient
    return getattr(_class_of(config), "image_gradient", True) is not False


def declares_comparisons(config: RewardModelConfig) -> bool:
    """Test whether a model compares images in pairs, without instantiating it; False if its class is not found here."""
    return config.compares_pairs or (config.type == "python" and hasattr(_class_of(config), "compare"))


def _class_of(config: PythonRewardConfig) -> type | None:
    """Return the class of a custom reward; None if it cannot be imported here."""
    module_name, class_name = config.target.split(":")
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError):
        return None


def prompt_check(config: RewardModelConfig) -> Callable[[str], object]:
    """Return a function that raises ValueError for a prompt that the reward cannot score.

    Raises:
        ValueError: If the reward's file of questions cannot be used.
    """
    if config.type == "ocr":
        return quoted_text
    if config.type == "questions":
        questions = read_questions(config.questions)
        return lambda prompt: questions_of(questions, prompt, config.questions)
    return lambda _prompt: None


BUILDERS: dict[str, Callable[[Any, str], Reward]] = {
    "aesthetic": AestheticReward.load,
    "http": HttpReward.load,
    "image_reward": ImageReward.load,
    "judge": JudgeReward.load,
    "ocr": OcrReward.load,
    "open_clip": OpenClipReward.load,
    "python": build_python_reward,
    "questions": QuestionsReward.load,
    "transformers_clip": load_transformers_clip,
}

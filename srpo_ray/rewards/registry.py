"""Registry of reward types: builds the reward models of a config."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from srpo_ray.config.rewards import PythonRewardConfig, RewardModelConfig
from srpo_ray.rewards.base import Reward
from srpo_ray.rewards.environment.reward import class_in_environment, load_in_environment
from srpo_ray.rewards.models.aesthetic import AestheticReward
from srpo_ray.rewards.models.checkpoint_file import find_checkpoint
from srpo_ray.rewards.models.hpsv3 import HPSv3Reward
from srpo_ray.rewards.models.image_reward import ImageReward
from srpo_ray.rewards.models.open_clip import OpenClipReward, open_clip_source
from srpo_ray.rewards.models.transformers_clip import load_transformers_clip
from srpo_ray.rewards.python_reward import load_python_reward
from srpo_ray.rewards.served.http_scores import HttpReward
from srpo_ray.rewards.served.judge import JudgeReward
from srpo_ray.rewards.served.ocr import OcrReward, quoted_text
from srpo_ray.rewards.served.questions import QuestionsReward, questions_of, read_questions

_HUB = "hf-hub:"


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
    """Load a custom reward, in this process or in one with its own Python environment.

    Raises:
        ValueError: If the environment cannot be used, the class cannot be imported, does not take the arguments or
            lacks the `Reward` interface, or an argument names an environment variable that is not set.
        RewardError: If the class itself raises.
    """
    if config.environment:
        return load_in_environment(config.name, config.target, config.arguments, config.environment)
    return load_python_reward(config.name, config.target, config.arguments)


def declares_image_gradient(config: RewardModelConfig) -> bool:
    """Test whether a model's class declares itself differentiable in the images, without instantiating it.

    True also if the class cannot be imported here or only its objects declare it; then the first score that is
    requested with a gradient raises the error. A class with an environment is imported there.

    Raises:
        ValueError: If the environment of the reward cannot be used.
    """
    if config.type != "python":
        return config.image_gradient
    if config.environment:
        return class_in_environment(config.target, config.environment).image_gradient
    return getattr(_class_of(config), "image_gradient", True) is not False


def declares_comparisons(config: RewardModelConfig) -> bool:
    """Test whether a model compares images in pairs, without instantiating it; False if its class is not found here.

    Raises:
        ValueError: If the environment of the reward cannot be used.
    """
    if config.type == "python" and config.environment:
        return class_in_environment(config.target, config.environment).compares
    return config.compares_pairs or (config.type == "python" and hasattr(_class_of(config), "compare"))


def _class_of(config: PythonRewardConfig) -> type | None:
    """Return the class of a custom reward; None if it cannot be imported here."""
    module_name, class_name = config.target.split(":")
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError):
        return None


def check_source(config: RewardModelConfig) -> None:
    """Check that the local folder or file of a model exists, without reading its weights; the hub is not asked.

    Raises:
        ValueError: If it does not exist.
    """
    path = str(getattr(config, "path", _HUB))
    if path.startswith(_HUB):
        return
    if config.type == "open_clip" and not config.architecture:
        open_clip_source(config.name, path)
    elif config.type != "transformers_clip":
        find_checkpoint(config.name, path)
    elif not Path(path).exists() and (Path(path).is_absolute() or path.startswith(".") or path.count("/") > 1):
        # Names of at most two parts may be those of the hub.
        raise ValueError(
            f"reward {config.name!r}: expected a folder or hub id, received {path!r}, which does not exist; check"
            " `path`"
        )


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
    "hpsv3": HPSv3Reward.load,
    "http": HttpReward.load,
    "image_reward": ImageReward.load,
    "judge": JudgeReward.load,
    "ocr": OcrReward.load,
    "open_clip": OpenClipReward.load,
    "python": build_python_reward,
    "questions": QuestionsReward.load,
    "transformers_clip": load_transformers_clip,
}

"""Custom reward classes, loaded by import path. Imports no config, for environments that have few packages."""

import importlib
import inspect
from collections.abc import Mapping

from srpo_ray.credentials import expand
from srpo_ray.rewards.base import Reward
from srpo_ray.rewards.call import RewardCall

Arguments = Mapping[str, str | int | float | bool]
"""Keyword arguments of a reward class, as in the config."""


def load_python_reward(name: str, target: str, arguments: Arguments) -> Reward:
    """Import `package.module:Class`, call it with arguments and set the reward's name.

    Args:
        name: Name of the reward.
        target: Import path of the class.
        arguments: Keyword arguments; `${NAME}` in a text is replaced by that environment variable.

    Raises:
        ValueError: If the class cannot be imported, does not take the arguments or lacks the `Reward` interface, or an
            argument names an environment variable that is not set.
        RewardError: If the class itself raises.
    """
    where = f"reward {name!r}, key `target`"
    reward_class = import_class(where, target)
    try:
        inspect.signature(reward_class).bind(**arguments)
    except TypeError as error:
        raise ValueError(
            f"{where}: expected arguments that {target} takes, received {dict(arguments)} ({error}); correct"
            " `arguments`"
        ) from error
    values = {key: expand(value) if isinstance(value, str) else value for key, value in arguments.items()}
    with RewardCall(name, (), "load"):
        reward = reward_class(**values)
    missing = [attribute for attribute in ("image_size", "image_gradient", "score") if not hasattr(reward, attribute)]
    if missing:
        raise ValueError(
            f"{where}: expected an object with image_size, image_gradient and score, received {target} "
            f"without {', '.join(missing)}; see srpo_ray.rewards.base.Reward"
        )
    reward.name = name
    return reward


def import_class(where: str, target: str) -> type:
    """Import `package.module:Class`.

    Args:
        where: Reward and key, for the message.
        target: Import path.

    Raises:
        ValueError: If there is no such module or class.
    """
    module_name, class_name = target.split(":")
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{where}: expected an importable package.module:Class, received {target!r} ({error}); install "
            "the package or put its folder on PYTHONPATH on every node"
        ) from error

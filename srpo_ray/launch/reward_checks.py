"""Checks of the reward models before any process of a run starts."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from srpo_ray.config import RunConfig
from srpo_ray.config.algorithms.registry import types_that
from srpo_ray.config.rewards import RewardModelConfig
from srpo_ray.data.texts import Texts
from srpo_ray.rewards.common_text import read_common_prompts
from srpo_ray.rewards.environment.reward import class_in_environment
from srpo_ray.rewards.python_reward import import_class
from srpo_ray.rewards.registry import check_source, declares_comparisons, declares_image_gradient, prompt_check


def check_rewards(config: RunConfig) -> None:
    """Check that the algorithm can train on every reward, and that prompts and environments of rewards can be read.

    The environments of rewards are made on this machine, if it has none yet.

    Raises:
        ValueError: If the algorithm needs image gradients and a reward declares that it has none, if it cannot use the
            comparisons of a reward, if prompts cannot be read, or if an environment cannot be made or used.
    """
    check_environments(config)
    for model in (*config.rewards.models, *config.evaluation.held_out):
        if common := getattr(model, "common", None):
            read_common_prompts(model.name, common.prompts)
    names = [model.name for model in config.rewards.models if declares_comparisons(model)]
    if names:
        config.algorithm.check_comparisons(names, len(config.rewards.models))
    if config.algorithm.inputs.reward != "gradient":
        return
    without = [model.name for model in config.rewards.models if not declares_image_gradient(model)]
    if without:
        raise ValueError(
            f"expected rewards with image gradients for algorithm.type={config.algorithm.type}, got"
            f" {', '.join(without)} with image_gradient = False; train with algorithm.type="
            f"{types_that(lambda needs: needs.reward == 'score')}, which needs none, or remove the model from"
            " rewards.models"
        )


def check_environments(config: RunConfig) -> None:
    """Make the Python environments of the rewards on this machine, and import every reward's class in its own.

    Raises:
        ValueError: If packages cannot be installed, an interpreter does not exist or lacks torch, or a class cannot be
            imported.
    """
    for section, models in _sections(config):
        for model in models:
            if model.type == "python" and model.environment:
                with named_in(f"{section}, reward {model.name!r}"):
                    class_in_environment(model.target, model.environment)


def check_sources(config: RunConfig, address: str | None) -> None:
    """Check that the local models of the rewards exist and their classes can be imported; the hub is not asked.

    Nothing is checked for a cluster, where rewards may be installed on their own nodes only.

    Args:
        config: The run.
        address: Address of a Ray cluster; None uses `RAY_ADDRESS` or starts a local Ray.

    Raises:
        ValueError: If a folder, file or class does not exist.
    """
    if address or os.environ.get("RAY_ADDRESS"):
        return
    for section, models in _sections(config):
        for model in models:
            with named_in(section), working_folder_importable():
                check_source(model)
                if model.type == "python" and not model.environment:
                    import_class(f"reward {model.name!r}, key `target`", model.target)


@contextmanager
def working_folder_importable() -> Iterator[None]:
    """Import from the working folder too, as Ray lets the workers of a driver do."""
    folder = os.getcwd()
    if folder in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def check_reward_prompts(config: RunConfig, texts: Texts) -> None:
    """Check that OCR rewards find quoted text in every prompt, and question rewards the prompt in their file.

    Raises:
        ValueError: If a prompt that a reward scores lacks them.
    """
    for section, models in _sections(config):
        for model in models:
            # Held-out models never score the training prompts.
            scored = {
                key: rows.prompts
                for key, rows in texts.by_key.items()
                if section == "rewards.models" or key.startswith("evaluation.")
            }
            check = prompt_check(model)
            for key, prompt in ((key, prompt) for key, prompts in scored.items() for prompt in prompts):
                with named_in(f"{section}, reward {model.name!r}, a prompt of {key}"):
                    check(prompt)


def _sections(config: RunConfig) -> tuple[tuple[str, tuple[RewardModelConfig, ...]], ...]:
    return ("rewards.models", config.rewards.models), ("evaluation.held_out", config.evaluation.held_out)


@contextmanager
def named_in(where: str) -> Iterator[None]:
    """Prefix a ValueError of the block with the place of its cause."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None

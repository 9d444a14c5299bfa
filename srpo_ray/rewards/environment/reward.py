"""Rewards whose class runs in a Python environment of its own; for the caller they are like any other reward."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo_ray.config.reward_environment import EnvironmentSection
from srpo_ray.rewards.autograd import connect_total
from srpo_ray.rewards.base import LostRewardError, Reward, RewardError
from srpo_ray.rewards.environment.process import AnswerError, EnvironmentProcess, ProcessEndedError
from srpo_ray.rewards.environment.protocol import Array, Values
from srpo_ray.rewards.python_reward import Arguments
from srpo_ray.rewards.query import TextQuery


@dataclass(frozen=True)
class ClassFacts:
    """Declarations of a reward class."""

    image_gradient: bool
    """False if the class declares that no score is differentiable in the image."""
    compares: bool
    """True if the class compares images in pairs."""


def class_in_environment(target: str, environment: EnvironmentSection) -> ClassFacts:
    """Import a reward class in its environment, without calling it; once per process of this project.

    Args:
        target: Import path `package.module:Class`.
        environment: Section `environment` of the reward.

    Raises:
        ValueError: If the environment cannot be made or used, or the class cannot be imported there.
    """
    return _inspected(target, environment.packages, environment.python)


@functools.cache
def _inspected(target: str, packages: tuple[str, ...], python: str | None) -> ClassFacts:
    process = EnvironmentProcess(EnvironmentSection(packages=packages, python=python))
    try:
        facts, _ = process.call({"call": "inspect", "target": target})
    except AnswerError as error:
        raise ValueError(error.reason) from error
    except ProcessEndedError as error:
        raise ValueError(
            f"key `target`: expected an importable class, received {target!r}, whose import ended the process of the"
            f" environment; {error}"
        ) from error
    finally:
        process.close()
    return ClassFacts(**facts)


def load_in_environment(name: str, target: str, arguments: Arguments, environment: EnvironmentSection) -> Reward:
    """Load a reward class in a process with its environment.

    Args:
        name: Name of the reward.
        target: Import path `package.module:Class`.
        arguments: Keyword arguments of the class.
        environment: Section `environment` of the reward.

    Raises:
        ValueError: As `load_python_reward`, or if the environment cannot be made or used.
        RewardError: If the class itself raises, or ends its process.
    """
    try:
        process = EnvironmentProcess(environment)
    except ValueError as error:
        raise ValueError(f"reward {name!r}: {error}") from error
    values = {"name": name, "target": target, "arguments": dict(arguments), "num_threads": torch.get_num_threads()}
    try:
        facts, _ = process.call({"call": "load", **values})
    except AnswerError as error:
        raise ValueError(error.reason) if error.mistake else RewardError(name, (), "load", error.reason) from error
    except ProcessEndedError as error:
        raise LostRewardError(name, (), "load", str(error)) from error
    return (PairwiseEnvironmentReward if facts["compares"] else EnvironmentReward)(name, process, facts)


class EnvironmentReward:
    """Reward in a child process. A lost process is not replaced here, but with the replica.

    Args:
        name: Name of the reward.
        process: Process that has loaded the reward.
        facts: Properties of the reward, from the process.
    """

    def __init__(self, name: str, process: EnvironmentProcess, facts: Values) -> None:
        self.name = name
        self.image_size: int = facts["image_size"]
        self.image_gradient: bool = facts["image_gradient"]
        self.fit: str = facts["fit"]
        self.antialias: bool = facts["antialias"]
        self._process = process

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        """See `Reward.score`; the process computes the gradient with the score if autograd will need it."""
        gradient = torch.is_grad_enabled() and images.requires_grad
        results = self._call({"call": "score", "gradient": gradient}, [images], queries)
        total = torch.from_numpy(results[0]).to(images.device)
        if not gradient:
            return total
        return connect_total(total, (torch.from_numpy(results[1]).to(images.device),), [images])

    def _call(self, values: Values, images: Sequence[Tensor], queries: Sequence[TextQuery]) -> list[Array]:
        terms = [query.terms for query in queries]
        arrays = [image.detach().cpu().numpy() for image in images]
        place = f"process {self._process.pid} of its environment"
        try:
            return self._process.call({**values, "queries": terms}, arrays)[1]
        except AnswerError as error:
            raise RewardError(self.name, [str(query) for query in queries], place, error.reason) from error
        except ProcessEndedError as error:
            raise LostRewardError(self.name, [str(query) for query in queries], place, str(error)) from error


class PairwiseEnvironmentReward(EnvironmentReward):
    """Reward in a child process that also compares two images at once."""

    def compare(self, first: Tensor, second: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        """See `PairwiseReward.compare`."""
        results = self._call({"call": "compare"}, [first, second], queries)
        return torch.from_numpy(results[0]).to(first.device)

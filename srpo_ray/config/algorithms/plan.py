"""Plan of a policy gradient: the paths of a group's images through the sampler, and what they cost."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

from pydantic import Field

from srpo_ray.config.base import Section


class Tail(Section):
    """Steps without noise from the last random step to the image."""

    share: float = Field(default=1.0, ge=0, le=1)
    """Number of the tail's steps as a share of the grid's remaining steps, rounded up, in [0, 1]. 1 takes all of them,
    0 makes a single step, which is the clean image that the model predicts."""
    solver: Literal["euler", "dpm_solver"] = "euler"
    """Solver of the tail: Euler's, or DPM-Solver++(2M), which needs fewer steps for the same error."""

    def points(self, first: int, num_steps: int) -> list[int]:
        """Return the tail's points in the sampler's grid, from `first` to `num_steps`, evenly spread."""
        remaining = num_steps - first
        count = max(1, math.ceil(self.share * remaining - 1e-9))
        return [first + round(index * remaining / count) for index in range(count + 1)]


class Walk(NamedTuple):
    """Path of a group's images from one grid point to the end."""

    start: int
    """Grid point at which the path starts."""
    sharing: tuple[int, ...]
    """For every grid point, number of consecutive images of a group that share their state there; it never rises."""
    random: tuple[int, ...]
    """Steps with noise, in order; they are the trained ones. Earlier and later steps are Euler steps."""
    tails: tuple[Tail, ...]
    """Tails from `tail_start` to the image; every image has one result per tail."""
    tail_start: int
    """Grid point at which the tails start."""
    leads: bool = False
    """True if the common path of later walks goes on from a drawn image's state after this walk's last random step."""


class Cost(NamedTuple):
    """Calls of the transformer."""

    calls: float
    """Number of calls."""
    work: float
    """Sum of their sizes, as shares of a call for all images of a pass."""


class PlanSection(Section):
    """Base of the plans."""

    @abstractmethod
    def trained(self, num_steps: int) -> int:
        """Count the random steps of an image that an update trains."""

    @abstractmethod
    def walks(
        self, num_steps: int, group_size: int, shared: bool, update: int, permute: Callable[[int], list[int]]
    ) -> tuple[Walk, ...]:
        """Return the paths of an update. Several paths start on one path of Euler steps from the initial noise.

        Args:
            num_steps: Steps of the sampler.
            group_size: Images of a prompt.
            shared: True if the images of a prompt start from one noise.
            update: Index of the update, from 0.
            permute: Random permutation of so many indices, drawn for the update.
        """

    @abstractmethod
    def forward(self, num_steps: int, group_size: int, shared: bool, images: int) -> Cost:
        """Count the calls without gradient, on average over the updates.

        Args:
            num_steps: Steps of the sampler.
            group_size: Images of a prompt.
            shared: True if the images of a prompt start from one noise.
            images: Images of a prompt in one pass. States that these images share are computed once.
        """

    def gradient(self, num_steps: int, group_size: int, shared: bool, images: int) -> list[float]:
        """Return the size of each trained call, as a share of a pass's images; see `forward`."""
        return [1.0] * self.trained(num_steps)

    def kept(self, num_steps: int, group_size: int, shared: bool, images: int, *, means: bool) -> float:
        """Count the states before and after random steps, and the means of the steps, for each image; see `forward`.

        All updates have equally many, wherever their random steps are. A plan that mixes steps keeps all random steps,
        of which each image trains its own.
        """
        walks = self.walks(num_steps, group_size, shared, 0, lambda count: list(range(count)))
        return sum(sum(states_of(walk, images)) + (sum(sizes_of(walk, images)) if means else 0.0) for walk in walks)

    @property
    def scored(self) -> int:
        """Number of images that are decoded and scored for each image of a group."""
        return 1

    @property
    def mixes_steps(self) -> bool:
        """True if every image trains steps of its own, in an order of its own."""
        return False

    def check(self, num_steps: int, group_size: int, images: int, shared: bool) -> None:
        """Check the plan against the sampler and the group.

        Raises:
            ValueError: If a step is outside the sampler's stochastic steps, or the group does not fit.
        """


def cost_of(walk: Walk, num_steps: int, images: int) -> Cost:
    """Count the calls of a path, from its start on, in a pass of `images` images."""
    steps = [1 / min(walk.sharing[point], images) for point in range(walk.start, walk.tail_start)]
    tails = sum(len(tail.points(walk.tail_start, num_steps)) - 1 for tail in walk.tails)
    return Cost(len(steps) + tails, sum(steps) + tails)


def sizes_of(walk: Walk, images: int) -> list[float]:
    """Return the size of the call of each random step of a path, as a share of `images` images."""
    return [1 / min(walk.sharing[point], images) for point in walk.random]


def states_of(walk: Walk, images: int) -> list[float]:
    """Return the size of each state before or after a random step of a path, as a share of `images` images."""
    points = {point for step in walk.random for point in (step, step + 1)}
    return [1 / min(walk.sharing[point], images) for point in sorted(points)]


def check_step(name: str, value: int, num_steps: int) -> None:
    """Check that a step has noise and a step after it.

    Raises:
        ValueError: If it is outside.
    """
    if not 0 <= value <= num_steps - 2:
        raise ValueError(
            f"expected algorithm.plan.{name} from 0 to {num_steps - 2}, the stochastic steps of rollout.num_steps ="
            f" {num_steps}, whose last step has no noise, got {value}; choose a step in this range, or raise"
            " rollout.num_steps"
        )

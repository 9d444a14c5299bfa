"""Plans of a policy gradient whose images branch off common paths: at single steps, or as a tree."""

import math
from collections.abc import Callable
from statistics import mean
from typing import Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.plan import Cost, PlanSection, Tail, Walk, check_step, cost_of, sizes_of


class Branch(PlanSection):
    """The group branches off one path: at each branch point, every image makes one random step."""

    type: Literal["branch"] = "branch"
    at: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Steps at which the group branches; each is trained with images and rewards of its own."""
    per_update: int | None = Field(default=None, ge=1)
    """Number of branch points of an update, drawn from `at`; unset takes all of them."""
    path: Literal["euler", "child"] = "euler"
    """Step of the common path at a branch point. `euler`: a step without noise; `child`: the random step of one of the
    group's images, drawn for each prompt (SPO). Between the branch points it makes Euler steps."""
    tails: tuple[Tail, ...] = Field(default=(Tail(),), min_length=1)
    """Tails after the random step. Each gives an image, and the advantages of all tails are averaged."""

    @model_validator(mode="after")
    def _check_points(self) -> Self:
        if len(set(self.at)) != len(self.at):
            raise ValueError(f"expected each step of at once, got {list(self.at)}; remove the repeats")
        if self.per_update and self.per_update > len(self.at):
            raise ValueError(
                f"expected per_update of at most {len(self.at)}, the number of steps in at, got {self.per_update};"
                " lower it or add steps"
            )
        return self

    def trained(self, num_steps: int) -> int:
        """Count the branch points of an update."""
        return self.per_update or len(self.at)

    @property
    def scored(self) -> int:
        """Number of images for each image of a group: one per branch point and tail."""
        return self.trained(0) * len(self.tails)

    def walks(
        self, num_steps: int, group_size: int, shared: bool, update: int, permute: Callable[[int], list[int]]
    ) -> tuple[Walk, ...]:
        """Return one path per branch point, in the order of the steps."""
        points = sorted(self.at)
        chosen = range(len(points)) if self.per_update is None else sorted(permute(len(points))[: self.per_update])
        return tuple(self._walk(points[index], num_steps, group_size) for index in chosen)

    def _walk(self, point: int, num_steps: int, group_size: int) -> Walk:
        shares = (group_size,) * (point + 1) + (1,) * (num_steps - point)
        return Walk(point, shares, (point,), self.tails, point + 1, leads=self.path == "child")

    def forward(self, num_steps: int, group_size: int, shared: bool, images: int) -> Cost:
        """Count the common path up to the last branch point, and the tails of all branch points."""
        points, chosen = sorted(self.at), self.trained(num_steps)
        # The first call of a path is one of the common path.
        tails = [cost_of(self._walk(point, num_steps, group_size), num_steps, images).calls - 1 for point in points]
        # Probability of each point to be the last of `chosen` ones out of all.
        chances = [math.comb(below, chosen - 1) / math.comb(len(points), chosen) for below in range(len(points))]
        last = sum(chance * point for chance, point in zip(chances, points, strict=True))
        ends = chosen * mean(tails)
        return Cost(last + 1 + ends, (last + 1) / images + ends)

    def gradient(self, num_steps: int, group_size: int, shared: bool, images: int) -> list[float]:
        """Return the size of each trained call: one state per prompt."""
        return [1 / images] * self.trained(num_steps)

    def check(self, num_steps: int, group_size: int, images: int, shared: bool) -> None:
        """Check that the branch points are stochastic steps, and that a group has one initial noise and path."""
        _check_shared(self.type, shared)
        if self.path == "child" and images < group_size:
            raise ValueError(
                f"expected no algorithm.images_per_pass with algorithm.plan.path=child, got {images}; the path goes on"
                f" from any of the {group_size} images of a group, so remove it or set the path to euler"
            )
        for point in self.at:
            check_step("at", point, num_steps)


class Tree(PlanSection):
    """The images of a group share their path up to the splits, at each of which every path divides."""

    type: Literal["tree"] = "tree"
    splits: tuple[int, ...] = Field(default=(0, 3, 6, 9), min_length=1)
    """Steps at which every path divides, in rising order. Steps before the first split are Euler steps."""
    children: int = Field(default=2, ge=2)
    """Paths into which a path divides at a split; `group_size` must be this number to the power of the splits."""
    random_between: bool = True
    """Random steps between and after the splits too, but for the sampler's last step; otherwise Euler steps."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if list(self.splits) != sorted(set(self.splits)):
            raise ValueError(f"expected splits in rising order, each once, got {list(self.splits)}; sort them")
        return self

    def _random(self, num_steps: int) -> tuple[int, ...]:
        return tuple(range(self.splits[0], num_steps - 1)) if self.random_between else self.splits

    def trained(self, num_steps: int) -> int:
        """Count the random steps of an image that an update trains."""
        return len(self._random(num_steps))

    def walks(
        self, num_steps: int, group_size: int, shared: bool, update: int, permute: Callable[[int], list[int]]
    ) -> tuple[Walk, ...]:
        """Return one path whose states are shared by fewer and fewer images."""
        return (self._walk(num_steps, group_size),)

    def _walk(self, num_steps: int, group_size: int) -> Walk:
        made = [sum(split < point for split in self.splits) for point in range(num_steps + 1)]
        shares = tuple(group_size // self.children**count for count in made)
        return Walk(0, shares, self._random(num_steps), (Tail(),), num_steps - 1)

    def forward(self, num_steps: int, group_size: int, shared: bool, images: int) -> Cost:
        """Count a call per step, for as many states as the group has there."""
        return cost_of(self._walk(num_steps, group_size), num_steps, images)

    def gradient(self, num_steps: int, group_size: int, shared: bool, images: int) -> list[float]:
        """Return the size of each trained call."""
        return sizes_of(self._walk(num_steps, group_size), images)

    def check(self, num_steps: int, group_size: int, images: int, shared: bool) -> None:
        """Check that the splits are stochastic steps, that they make the group, and that passes hold subtrees."""
        _check_shared(self.type, shared)
        for split in self.splits:
            check_step("splits", split, num_steps)
        leaves = self.children ** len(self.splits)
        if leaves != group_size:
            raise ValueError(
                f"expected algorithm.group_size = {leaves}, the leaves of {len(self.splits)} splits into"
                f" {self.children}, got {group_size}; set it to {leaves}, or change algorithm.plan.splits"
            )
        sizes = [self.children**depth for depth in range(len(self.splits) + 1)]
        if any(size % images and images % size for size in sizes):
            raise ValueError(
                f"expected algorithm.images_per_pass to hold whole subtrees of {', '.join(map(str, sizes))} images, got"
                f" {images}; choose one of these numbers"
            )


def _check_shared(kind: str, shared: bool) -> None:
    if not shared:
        raise ValueError(
            f"expected algorithm.noise=per_sample with algorithm.plan.type={kind}, got per_image; images that branch"
            " off one path start from one noise, so set it to per_sample or choose another plan"
        )

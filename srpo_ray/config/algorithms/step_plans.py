"""Plans of a policy gradient whose images each walk by themselves: all steps random, or a window of them."""

from collections.abc import Callable
from statistics import mean
from typing import Literal

from pydantic import Field

from srpo_ray.config.algorithms.plan import Cost, PlanSection, Tail, Walk, cost_of, sizes_of


class AllSteps(PlanSection):
    """All steps but the last are random."""

    type: Literal["all"] = "all"
    share: float = Field(default=0.6, gt=0, le=1)
    """Share of the random steps that an update trains, in (0, 1]: `int(share * (num_steps - 1))` steps and at least
    one, drawn for every image."""

    def trained(self, num_steps: int) -> int:
        """Count the random steps of an image that an update trains."""
        return max(1, int(self.share * (num_steps - 1)))

    @property
    def mixes_steps(self) -> bool:
        """True: steps are drawn for every image."""
        return True

    def walks(
        self, num_steps: int, group_size: int, shared: bool, update: int, permute: Callable[[int], list[int]]
    ) -> tuple[Walk, ...]:
        """Return one path on which no state is shared."""
        return (Walk(0, (1,) * (num_steps + 1), tuple(range(num_steps - 1)), (Tail(),), num_steps - 1),)

    def forward(self, num_steps: int, group_size: int, shared: bool, images: int) -> Cost:
        """Count one call per step."""
        return Cost(num_steps, num_steps)


class Window(PlanSection):
    """A few consecutive steps are random and trained; the others are Euler steps."""

    type: Literal["window"] = "window"
    size: int = Field(default=3, ge=1)
    """Number of random steps."""
    steps: tuple[int, int] | None = None
    """First step that the window may cover, and the step after the last one; 0 is the noisiest step. Unset allows all
    steps but the sampler's last one."""
    start: Literal["random", "progressive"] = "random"
    """Position of the window: drawn for every update, or moved from the noisy end of the range to its clean end."""
    every: int = Field(default=25, ge=1)
    """Updates that a progressive window stays at a position."""
    stride: int = Field(default=1, ge=1)
    """Steps by which a progressive window moves."""
    roll_back: bool = True
    """Return of a progressive window to the start of the range after its end; otherwise it stays at the end."""
    tail: Tail = Tail()
    """Steps after the window."""

    def trained(self, num_steps: int) -> int:
        """Count the random steps of an image that an update trains."""
        return self.size

    def starts(self, num_steps: int) -> range:
        """Return the possible first steps of the window."""
        first, end = self.steps or (0, num_steps - 1)
        return range(first, end - self.size + 1, self.stride if self.start == "progressive" else 1)

    def walks(
        self, num_steps: int, group_size: int, shared: bool, update: int, permute: Callable[[int], list[int]]
    ) -> tuple[Walk, ...]:
        """Return one path; with one initial noise, the images share their states up to the first random step."""
        starts = self.starts(num_steps)
        turn = update // self.every
        if self.start == "random":
            turn = permute(len(starts))[0]
        elif not self.roll_back:
            turn = min(turn, len(starts) - 1)
        return (self._walk(starts[turn % len(starts)], num_steps, group_size if shared else 1),)

    def _walk(self, first: int, num_steps: int, sharing: int) -> Walk:
        end = first + self.size
        shares = (sharing,) * (first + 1) + (1,) * (num_steps - first)
        return Walk(0, shares, tuple(range(first, end)), (self.tail,), end)

    def forward(self, num_steps: int, group_size: int, shared: bool, images: int) -> Cost:
        """Count the steps before and in the window and those of the tail, on average over the positions."""
        walks = [self._walk(first, num_steps, group_size if shared else 1) for first in self.starts(num_steps)]
        costs = [cost_of(walk, num_steps, images) for walk in walks]
        return Cost(mean(cost.calls for cost in costs), mean(cost.work for cost in costs))

    def gradient(self, num_steps: int, group_size: int, shared: bool, images: int) -> list[float]:
        """Return the size of each trained call: the first one has a state per prompt with one initial noise."""
        return sizes_of(self._walk(self.starts(num_steps)[0], num_steps, group_size if shared else 1), images)

    def check(self, num_steps: int, group_size: int, images: int, shared: bool) -> None:
        """Check that the window fits into its range, and the range into the sampler's stochastic steps."""
        first, end = self.steps or (0, num_steps - 1)
        if not 0 <= first < end <= num_steps - 1 or self.size > end - first:
            raise ValueError(
                f"expected a window of algorithm.plan.size steps in algorithm.plan.steps [first, end) with 0 <= first <"
                f" end <= {num_steps - 1}, the stochastic steps of rollout.num_steps = {num_steps}, got size"
                f" {self.size} in [{first}, {end}); shorten the window, widen its range, or raise rollout.num_steps"
            )

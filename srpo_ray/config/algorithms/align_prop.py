"""Options of AlignProp.

The gradient goes through steps of the sampler, so section `rollout` determines their number, shift and guidance.
"""

import math
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field

from srpo_ray.config.algorithms.base import Calls, Needs
from srpo_ray.config.algorithms.query import QuerySection


class AlignPropConfig(QuerySection):
    """AlignProp, arXiv 2310.03739; both distributions are the authors', who redraw until a cut is in [1, num_steps)."""

    code: ClassVar[str] = "srpo_ray.algorithms.align_prop:AlignProp"
    needs: ClassVar[Needs] = Needs(accepts_approximate_rollouts=True)
    keeps_rollout: ClassVar[bool] = True
    type: Literal["align_prop"] = "align_prop"
    cut: Literal["uniform", "normal"] = "uniform"
    """Distribution of the cut, drawn once per update: the index of the first step with gradient, at least 1."""
    cut_mean: float = Field(default=0.84, ge=0, le=1)
    """Mean of a normal cut as a share of the sampler's steps, in [0, 1]; 0.84 is step 42 of 50."""
    cut_std: float = Field(default=0.1, ge=0)
    """Standard deviation of a normal cut as a share of the sampler's steps; 0.1 is 5 of 50."""

    def cut_probabilities(self, num_steps: int) -> list[float]:
        """Compute the probability of each of `num_steps` steps to be the first one with gradient.

        This is the distribution of a normal cut that is rounded down and redrawn until it is in [1, num_steps).

        Raises:
            ValueError: If hardly any draw is in that range.
        """
        if self.cut == "uniform":
            masses = [1.0] * (num_steps - 1)
        else:
            below = [self._below(step / num_steps) for step in range(1, num_steps + 1)]
            masses = [after - before for before, after in pairwise(below)]
        total = sum(masses)
        if total < 0.01:
            raise ValueError(
                f"expected a cut after the first of rollout.num_steps = {num_steps} steps and before the end, got"
                f" cut={self.cut}, cut_mean={self.cut_mean:g} and cut_std={self.cut_std:g}, whose draws are in this"
                f" range with probability {total:.2g}; choose a cut_mean between the two, or more steps"
            )
        return [0.0, *(mass / total for mass in masses)]

    def _below(self, share: float) -> float:
        """Compute the probability that a normal cut is below a share of the steps."""
        if not self.cut_std:
            return float(self.cut_mean < share)
        return 0.5 * (1 + math.erf((share - self.cut_mean) / (self.cut_std * math.sqrt(2))))

    def calls(self, num_steps: int) -> Calls:
        """Count a rollout up to the cut, and one loss through the steps after it; step 0 is never the cut."""
        before = sum(cut * chance for cut, chance in enumerate(self.cut_probabilities(num_steps)))
        return Calls(before, chained=num_steps - 1, mean_chained=num_steps - before)

    def check_rollout(self, num_steps: int) -> None:
        """Check that the sampler has enough steps for a cut."""
        self.cut_probabilities(num_steps)

"""Options of LeapAlign.

The gradient goes through leaps over steps of the sampler, so section `rollout` determines their number, shift and
guidance.
"""

from typing import ClassVar, Literal

from pydantic import Field

from srpo_ray.config.algorithms.base import Calls, Needs
from srpo_ray.config.algorithms.query import QuerySection


class LeapAlignConfig(QuerySection):
    """LeapAlign, arXiv 2604.15311; defaults of its FLUX recipe with HPSv2.1, which has 25 rollout steps."""

    code: ClassVar[str] = "srpo_ray.algorithms.leap_align:LeapAlign"
    needs: ClassVar[Needs] = Needs(accepts_approximate_rollouts=True)
    type: Literal["leap_align"] = "leap_align"
    discount: float = Field(default=0.3, ge=0, le=1)
    """Factor of the gradient that passes through the input of the second leap, in [0, 1]; 0.1 in the recipes with
    PickScore and HPSv3. 0 leaves out the interaction of the two leaps, 1 back-propagates it whole."""
    min_distance: float = Field(default=0.1, gt=0)
    """Lower bound of the mean absolute difference between a leap's end and the rollout, in latent units, above 0. A
    sample's loss is divided by the sum of its two distances, so its weight is at most 1 / (2 * min_distance)."""
    hinge: float = 0.55
    """Hinge of the loss `relu(hinge - reward)`: 0.55 for HPSv2.1, 0.4 for PickScore as a cosine; for other rewards set
    it above their range."""

    def calls(self, num_steps: int) -> Calls:
        """Count a rollout, and one loss through two leaps."""
        return Calls(num_steps, chained=2, mean_chained=2, kept=num_steps + 1)

    def check_rollout(self, num_steps: int) -> None:
        """Check that the sampler has two steps."""
        if num_steps < 2:
            raise ValueError(
                f"expected rollout.num_steps of at least 2 with algorithm {self.type}, got {num_steps}; each of the two"
                " leaps starts at a step of its own, so raise it"
            )

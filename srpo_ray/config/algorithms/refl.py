"""Options of ReFL.

The gradient goes through steps of the sampler, so section `rollout` determines their number, shift and guidance.
"""

from typing import ClassVar, Literal

from pydantic import Field

from srpo_ray.config.algorithms.base import Calls, Needs
from srpo_ray.config.algorithms.query import QuerySection


class ReFLConfig(QuerySection):
    """Reward feedback learning (ReFL), ImageReward, arXiv 2304.05977; defaults of its public FLUX settings."""

    code: ClassVar[str] = "srpo_ray.algorithms.refl:ReFL"
    needs: ClassVar[Needs] = Needs(accepts_approximate_rollouts=True)
    keeps_rollout: ClassVar[bool] = True
    type: Literal["refl"] = "refl"
    late_share: float = Field(default=0.44, gt=0, le=1)
    """Share of the sampler's last steps from which the gradient step is drawn, in (0, 1]; 0.44 is 11 of 25."""
    hinge: float = 0.55
    """Hinge of the loss `relu(hinge - reward)`. The default is for HPSv2.1 and above its relative rewards too, which
    are near 0; for other rewards set it above their range."""

    def late_steps(self, num_steps: int) -> int:
        """Count the last sampler steps from which the gradient step is drawn."""
        return max(1, round(self.late_share * num_steps))

    def calls(self, num_steps: int) -> Calls:
        """Count a rollout up to one of the late steps, all equally likely, and one loss."""
        return Calls(num_steps - (self.late_steps(num_steps) + 1) / 2)

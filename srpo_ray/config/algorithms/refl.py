"""Options of ReFL.

The gradient goes through steps of the sampler, so section `rollout` sets their number, shift and guidance.
"""

from typing import ClassVar, Literal

from pydantic import Field

from srpo_ray.config.algorithms.base import AlgorithmSection, Calls


class ReFLConfig(AlgorithmSection):
    """Reward feedback learning, ImageReward, arXiv 2304.05977; defaults of its public FLUX settings."""

    code: ClassVar[str] = "srpo_ray.algorithms.refl:ReFL"
    type: Literal["refl"] = "refl"
    late_share: float = Field(default=0.44, gt=0, le=1)
    """Share of the sampler's last steps that the gradient step is drawn from; 0.44 is 11 of 25."""
    hinge: float = 0.55
    """Loss is `relu(hinge - reward)`; the default is for HPSv2.1, set it above the range of other rewards."""

    def late_steps(self, num_steps: int) -> int:
        """Last steps of the sampler that the gradient step is drawn from."""
        return max(1, round(self.late_share * num_steps))

    def calls(self, num_steps: int) -> Calls:
        """A rollout up to one of the late steps, all as likely, and one loss."""
        return Calls(num_steps - (self.late_steps(num_steps) + 1) / 2)

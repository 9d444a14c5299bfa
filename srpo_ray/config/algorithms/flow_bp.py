"""Options of FlowBP.

The gradient goes through steps of the sampler, so section `rollout` determines their number, shift and guidance.
"""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.base import Calls, Needs
from srpo_ray.config.algorithms.query import QuerySection


class FlowBPConfig(QuerySection):
    """FlowBP, arXiv 2606.11075; defaults of FlowBP-Bridge for FLUX.1-dev, which has 25 rollout steps."""

    code: ClassVar[str] = "srpo_ray.algorithms.flow_bp:FlowBP"
    needs: ClassVar[Needs] = Needs(accepts_approximate_rollouts=True)
    type: Literal["flow_bp"] = "flow_bp"
    variant: Literal["sparse", "bridge"] = "bridge"
    """`sparse`: the image's gradient is the sum of the active steps' own gradients. `bridge`: a step drawn for each
    sample splits the rollout, is active, and passes a part of its gradient on to the active steps before it."""
    active_steps: int = Field(default=5, ge=1)
    """Number of steps with gradient, drawn for each sample: the memory of an update is that of so many calls. With
    `bridge` they are the splitting step, half of the others before it and half after it; at least 2."""
    late_bias: float = Field(default=2.0, ge=0)
    """Preference for late steps: the weight of the i-th of n steps in the draw is `(i / n) ** late_bias`; 0 draws
    uniformly."""
    bridge_gradient: float = Field(default=0.1, ge=0, le=1)
    """Factor of the gradient that passes through the input of the splitting step, in [0, 1]; `sparse` ignores it."""
    rescale: float = Field(default=1.0, ge=0, le=1)
    """Correction of the gradient for inactive steps, in [0, 1]: 1 multiplies it by the ratio of the sigma range to the
    length of the active steps, 0 by 1."""
    hinge: float = 0.55
    """Hinge of the loss `relu(hinge - reward)`. The default is for HPSv2.1; for other rewards set it above their
    range."""

    @property
    def before_bridge(self) -> int:
        """Number of active steps before the splitting step."""
        return self.active_steps // 2

    @model_validator(mode="after")
    def _check_bridge(self) -> Self:
        if self.variant == "bridge" and self.active_steps < 2:
            raise ValueError(
                f"expected at least 2 active_steps with variant bridge, got {self.active_steps}; one is the splitting"
                " step and one is before it, so raise it or set variant to sparse"
            )
        return self

    def calls(self, num_steps: int) -> Calls:
        """Count a rollout, and one loss with the active steps."""
        return Calls(num_steps, chained=self.active_steps, mean_chained=self.active_steps, kept=num_steps + 1)

    def check_rollout(self, num_steps: int) -> None:
        """Check that the sampler has at least as many steps as are active."""
        if self.active_steps > num_steps:
            raise ValueError(
                f"expected algorithm.active_steps of at most rollout.num_steps = {num_steps}, got {self.active_steps};"
                " lower the one or raise the other"
            )

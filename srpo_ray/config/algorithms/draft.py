"""Options of DRaFT.

The gradient goes through steps of the sampler, so section `rollout` determines their number, shift and guidance.
"""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.base import Calls, Needs
from srpo_ray.config.algorithms.query import QuerySection


class DRaFTConfig(QuerySection):
    """Direct reward fine-tuning (DRaFT), arXiv 2309.17400; the default is DRaFT-LV with the authors' two renoisings."""

    code: ClassVar[str] = "srpo_ray.algorithms.draft:DRaFT"
    needs: ClassVar[Needs] = Needs(accepts_approximate_rollouts=True)
    keeps_rollout: ClassVar[bool] = True
    type: Literal["draft"] = "draft"
    num_steps: int = Field(default=1, ge=1)
    """Number of sampler steps with gradient: the K of DRaFT-K."""
    gradient_steps: Literal["last", "spread"] = "last"
    """Steps with gradient. `last`: the sampler's last ones, as a chain. `spread`: evenly spaced ones, with an offset
    drawn per update and with detached inputs, so that early steps are trained without a chain of Jacobians (the sampler
    gradient of LongAlign, arXiv 2410.11817, which has 5 of 50)."""
    renoisings: int = Field(default=2, ge=0)
    """Number of new noises for each finished image, each with a gradient step (DRaFT-LV); 0 is DRaFT-K."""

    @model_validator(mode="after")
    def _check_renoisings(self) -> Self:
        if self.renoisings and self.gradient_steps == "spread":
            raise ValueError(
                f"expected renoisings 0 with gradient_steps spread, got {self.renoisings}; a renoised image repeats the"
                " last step only, so set renoisings to 0 or gradient_steps to last"
            )
        if self.renoisings and self.num_steps != 1:
            raise ValueError(
                f"expected num_steps 1 with renoisings, got num_steps={self.num_steps} and"
                f" renoisings={self.renoisings}; DRaFT-LV renoises by one step, so set renoisings to 0 for DRaFT-K"
            )
        return self

    def calls(self, num_steps: int) -> Calls:
        """Count a rollout up to the last steps, one loss, and one more per renoising; whole with spread steps."""
        last = self.num_steps
        if self.gradient_steps == "spread":
            return Calls(num_steps, chained=last, mean_chained=last, kept=num_steps + 1)
        return Calls(num_steps - last, losses=1 + self.renoisings, chained=last, mean_chained=last)

    def check_rollout(self, num_steps: int) -> None:
        """Check that the sampler has at least as many steps as carry gradient."""
        if self.num_steps > num_steps:
            raise ValueError(
                f"expected algorithm.num_steps of at most rollout.num_steps = {num_steps}, got {self.num_steps};"
                " the steps with gradient are steps of the rollout, so lower the one or raise the other"
            )

"""What the algorithms that SRPO is compared with can be told. Defaults are their authors', or those in public use.

Where the gradient goes through steps of the sampler (all but Direct-Align), section `rollout` sets the steps, the
shift and the guidance of these steps too.
"""

import math
from itertools import pairwise
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import AlgorithmSection
from srpo_ray.config.window import WindowSection


class DirectAlignConfig(WindowSection):
    """Direct-Align with a plain reward, arXiv 2509.06942; window and strength as in SRPO's HPSv2.1 recipe."""

    type: Literal["direct_align"] = "direct_align"


class ReFLConfig(AlgorithmSection):
    """Reward feedback learning, ImageReward, arXiv 2304.05977; defaults of its public FLUX settings."""

    type: Literal["refl"] = "refl"
    late_share: float = Field(default=0.44, gt=0, le=1)
    """Share of the sampler's last steps that the gradient step is drawn from; 0.44 is 11 of 25."""
    hinge: float = 0.55
    """Loss is `relu(hinge - reward)`; the default is for HPSv2.1, set it above the range of other rewards."""


class DRaFTConfig(AlgorithmSection):
    """Direct reward fine-tuning, arXiv 2309.17400; the default is DRaFT-LV with its authors' two renoisings."""

    type: Literal["draft"] = "draft"
    num_steps: int = Field(default=1, ge=1)
    """Last sampler steps that carry gradient: the K of DRaFT-K."""
    renoisings: int = Field(default=2, ge=0)
    """Fresh noises on each finished picture, a gradient step from each (DRaFT-LV); 0 is DRaFT-K."""

    @model_validator(mode="after")
    def _check_renoisings(self) -> Self:
        if self.renoisings and self.num_steps != 1:
            raise ValueError(
                f"expected num_steps 1 with renoisings, got num_steps={self.num_steps} and"
                f" renoisings={self.renoisings}; DRaFT-LV goes back by one step, so set renoisings to 0 for DRaFT-K"
            )
        return self


class AlignPropConfig(AlgorithmSection):
    """AlignProp, arXiv 2310.03739; both cuts are its authors', who draw again until one is in [1, num_steps)."""

    type: Literal["align_prop"] = "align_prop"
    cut: Literal["uniform", "normal"] = "uniform"
    """How the first step with gradient is drawn, once per update; the steps count from 0, and step 0 is never it."""
    cut_mean: float = Field(default=0.84, ge=0, le=1)
    """Mean of a normal cut as a share of the sampler's steps; 0.84 is step 42 of 50."""
    cut_std: float = Field(default=0.1, ge=0)
    """Standard deviation of a normal cut as a share of the sampler's steps; 0.1 is 5 of 50."""

    def cut_probabilities(self, num_steps: int) -> list[float]:
        """How likely each of `num_steps` steps is the first one with gradient.

        A normal cut is rounded down and drawn again until it is in [1, num_steps), which is this distribution.

        Raises:
            ValueError: If hardly any draw is in the range.
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
                f" cut={self.cut}, cut_mean={self.cut_mean:g} and cut_std={self.cut_std:g}, which is there in"
                f" {total:.2g} of its draws; take a cut_mean between the two, or more steps"
            )
        return [0.0, *(mass / total for mass in masses)]

    def _below(self, share: float) -> float:
        """Probability that a normal cut is below a share of the steps."""
        if not self.cut_std:
            return float(self.cut_mean < share)
        return 0.5 * (1 + math.erf((share - self.cut_mean) / (self.cut_std * math.sqrt(2))))


class DanceGRPOConfig(AlgorithmSection):
    """DanceGRPO, arXiv 2505.07818; defaults of its FLUX recipe, which has 16 rollout steps with shift 3.

    The release makes three optimizer steps with each rollout; here it is one. It also clips gradients to a norm of 1.0
    (`training.optimizer.max_grad_norm`).
    """

    needs_image_gradient: ClassVar[bool] = False
    type: Literal["dance_grpo"] = "dance_grpo"
    group_size: int = Field(default=12, ge=2)
    """Pictures per prompt that are compared with each other; the update has this many times its batch size."""
    eta: float = Field(default=0.3, gt=0)
    """Noise of the sampler's random steps."""
    step_share: float = Field(default=0.6, gt=0, le=1)
    """Share of the sampler's random steps that an update trains, `int(share * (num_steps - 1))` of them and at least
    one, drawn for every sample; the last step of the sampler has no noise and is never one."""
    clip_range: float = Field(default=1e-4, gt=0)
    """A probability ratio further than this from 1 has no gradient in the direction that takes it further."""
    advantage_limit: float = Field(default=5.0, gt=0)
    """Advantages are clamped to plus or minus this many standard deviations."""

    def trained_steps(self, num_steps: int) -> int:
        """Random steps of a sample that an update trains, of the `num_steps - 1` that a rollout has."""
        return max(1, int(self.step_share * (num_steps - 1)))

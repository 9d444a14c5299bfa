"""Options of DanceGRPO. Section `rollout` sets number, shift and guidance of the steps that are trained."""

from typing import ClassVar, Literal

from pydantic import Field

from srpo_ray.config.algorithms.base import Calls, Needs
from srpo_ray.config.algorithms.group import GroupSection


class DanceGRPOConfig(GroupSection):
    """DanceGRPO, arXiv 2505.07818; defaults of its FLUX recipe, which has 16 rollout steps with shift 3.

    The release makes three optimizer steps with each rollout; here it is one. It also clips gradients to a norm of 1.0
    (`training.optimizer.max_grad_norm`).
    """

    code: ClassVar[str] = "srpo_ray.algorithms.dance_grpo:DanceGRPO"
    needs: ClassVar[Needs] = Needs(reward="score")
    type: Literal["dance_grpo"] = "dance_grpo"
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

    def calls(self, num_steps: int) -> Calls:
        """A rollout of every group, then a loss per trained step."""
        losses = self.trained_steps(num_steps)
        return Calls(
            num_steps,
            losses=losses,
            images_per_prompt=self.group_size,
            passes_per_prompt=self.passes_per_prompt,
            decodes=False,
        )

    def check_rollout(self, num_steps: int) -> None:
        """Refuse a sampler without a random step."""
        if num_steps < 2:
            raise ValueError(
                f"expected rollout.num_steps of at least 2 with algorithm {self.type}, got {num_steps}; the last step"
                " has no noise, so raise it to have a random step to train"
            )

"""Options of DanceGRPO. Section `rollout` determines the number, shift and guidance of the sampler steps."""

from typing import ClassVar, Literal

from pydantic import Field

from srpo_ray.config.algorithms.base import Calls, Needs
from srpo_ray.config.algorithms.group import GroupSection


class DanceGRPOConfig(GroupSection):
    """DanceGRPO, arXiv 2505.07818; defaults of its FLUX recipe, which has 16 rollout steps with shift 3.

    The release makes three optimizer steps per rollout; this implementation makes one. The release also clips gradients
    to a norm of 1.0 (`training.optimizer.max_grad_norm`).
    """

    code: ClassVar[str] = "srpo_ray.algorithms.dance_grpo:DanceGRPO"
    needs: ClassVar[Needs] = Needs(reward="score")
    type: Literal["dance_grpo"] = "dance_grpo"
    eta: float = Field(default=0.3, gt=0)
    """Noise scale of the sampler's stochastic steps, above 0."""
    step_share: float = Field(default=0.6, gt=0, le=1)
    """Share of the stochastic sampler steps that an update trains, in (0, 1]: `int(share * (num_steps - 1))` steps and
    at least one, drawn for every sample. The last sampler step is deterministic and never trained."""
    clip_range: float = Field(default=1e-4, gt=0)
    """Clip range of the probability ratio around 1, above 0; outside, the gradient that moves it further is zero."""
    advantage_limit: float = Field(default=5.0, gt=0)
    """Maximum absolute advantage, in standard deviations of the group, above 0."""

    def trained_steps(self, num_steps: int) -> int:
        """Count the trained steps of a sample, out of the `num_steps - 1` stochastic steps of a rollout."""
        return max(1, int(self.step_share * (num_steps - 1)))

    def calls(self, num_steps: int) -> Calls:
        """Count a rollout of every group, then one loss per trained step."""
        losses = self.trained_steps(num_steps)
        return Calls(
            num_steps,
            losses=losses,
            images_per_prompt=self.group_size,
            passes_per_prompt=self.passes_per_prompt,
            decodes=False,
        )

    def check_rollout(self, num_steps: int) -> None:
        """Check that the sampler has a stochastic step."""
        if num_steps < 2:
            raise ValueError(
                f"expected rollout.num_steps of at least 2 with algorithm {self.type}, got {num_steps}; the last step"
                " is deterministic, so raise it to have a stochastic step to train"
            )

"""Options of DanceGRPO. Section `rollout` determines the number, shift and guidance of the sampler steps."""

from typing import Literal

from pydantic import Field

from srpo_ray.config.algorithms.advantage import AdvantageSection
from srpo_ray.config.algorithms.policy_gradient import Parts, PolicyGradientSection
from srpo_ray.config.algorithms.step_plans import AllSteps
from srpo_ray.config.algorithms.surrogate import SurrogateSection
from srpo_ray.config.algorithms.transition import TransitionSection


class DanceGRPOConfig(PolicyGradientSection):
    """DanceGRPO, arXiv 2505.07818; defaults of its FLUX recipe, which has 16 rollout steps with shift 3.

    The release makes three optimizer steps per rollout; this section makes one (`type: policy_gradient` with
    `optimizer_steps: 3` makes three). The release also clips gradients
    to a norm of 1.0 (`training.optimizer.max_grad_norm`).
    """

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

    @property
    def parts(self) -> Parts:
        """DanceGRPO as a policy gradient."""
        return Parts(
            AllSteps(share=self.step_share),
            TransitionSection(strength=self.eta),
            AdvantageSection(limit=self.advantage_limit),
            SurrogateSection(clip_range=self.clip_range),
        )

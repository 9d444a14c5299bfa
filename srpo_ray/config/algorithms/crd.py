"""Options of centred reward distillation. Section `rollout` determines the sampler's steps, shift and guidance."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.base import Needs, Role
from srpo_ray.config.algorithms.forward_process import ForwardProcessSection


class CRDConfig(ForwardProcessSection):
    """Centred reward distillation (CRD), arXiv 2603.14128: regression of implicit rewards to the rewards of a group.

    The implicit reward of an image is the decrease of its matching error from the old weights to the policy. Published:
    20 points, strength 1, `anchor.reference` 0.1 to a reference with classifier-free guidance. Here the policy samples,
    and the reference has the guidance of the rollout.
    """

    code: ClassVar[str] = "srpo_ray.algorithms.crd:CRD"
    needs: ClassVar[Needs] = Needs(reward="score", accepts_approximate_rollouts=True, roles=frozenset({"old"}))
    type: Literal["crd"] = "crd"
    strength: float = Field(default=1.0, gt=0)
    """Factor of the implicit rewards, above 0; larger values ask for smaller changes of the matching error."""
    advantage_limit: float = Field(default=5.0, gt=0)
    """Maximum absolute advantage, in standard deviations of the group, above 0; the limits have the rewards 0 and 1."""

    @property
    def compared(self) -> tuple[Role, ...]:
        """The policy, for the mean of the implicit rewards over a group, and the old weights."""
        return ("policy", "old")

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.optimizer_steps > 1:
            raise ValueError(
                f"expected algorithm.optimizer_steps=1 with crd, got {self.optimizer_steps}; the mean of the implicit"
                " rewards would be that of the policy before the first step, so remove it"
            )
        return self

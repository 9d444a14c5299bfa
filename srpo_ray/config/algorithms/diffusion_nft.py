"""Options of DiffusionNFT. Section `rollout` determines the sampler's steps, shift and guidance."""

from typing import ClassVar, Literal

from pydantic import Field

from srpo_ray.config.algorithms.base import Needs, Role
from srpo_ray.config.algorithms.forward_process import ForwardProcessSection


class DiffusionNFTConfig(ForwardProcessSection):
    """DiffusionNFT (negative-aware fine-tuning), arXiv 2509.16117.

    The old weights sample. The release trains at all 10 to 25 sigmas of a second-order ODE solver without
    classifier-free guidance, 24 images per prompt, LoRA at a learning rate of 3e-4, `anchor.reference` 0.0001; its
    decay of the old weights is either the default, or `{start: 75, ramp: 0.0075, limit: 0.999}`. It is not meant for
    models that are distilled to few steps.
    """

    code: ClassVar[str] = "srpo_ray.algorithms.diffusion_nft:DiffusionNFT"
    needs: ClassVar[Needs] = Needs(reward="score", accepts_approximate_rollouts=True, roles=frozenset({"old"}))
    sampler: ClassVar[Role] = "old"
    type: Literal["diffusion_nft"] = "diffusion_nft"
    strength: float = Field(default=1.0, gt=0)
    """Distance b of the implicit positive and negative policies from the old one, above 0: `v+ = b v + (1 - b) v_old`
    and `v- = (1 + b) v_old - b v`. The release has 1, and 0.1 for its text-rendering reward."""
    advantage_limit: float = Field(default=5.0, gt=0)
    """Maximum absolute advantage, in standard deviations of the group, above 0. The limits have the weights 0 and 1 in
    the positive loss, an average image has 0.5."""

    @property
    def compared(self) -> tuple[Role, ...]:
        """The old weights."""
        return ("old",)

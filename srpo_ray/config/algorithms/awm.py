"""Options of advantage weighted matching. Section `rollout` determines the sampler's steps, shift and guidance."""

from typing import ClassVar, Literal

from pydantic import Field

from srpo_ray.config.algorithms.anchor import AnchorSection
from srpo_ray.config.algorithms.base import Role
from srpo_ray.config.algorithms.forward_process import ForwardProcessSection, OldDecay

ErrorWeighting = Literal["plain", "sigma", "root", "huber"]
"""Function of the matching error in a log-likelihood."""


class AWMConfig(ForwardProcessSection):
    """Advantage weighted matching (AWM), arXiv 2509.25050: policy gradient of a likelihood estimated from the image.

    The release samples 24 images per prompt in 14 steps without classifier-free guidance, at 6 of the first 90 % of the
    sigmas, two optimizer steps per rollout, LoRA at a learning rate of 3e-4 (Stable Diffusion 3.5), `anchor.old` 1
    and `anchor.reference` 0.0001 to 0.003.
    """

    code: ClassVar[str] = "srpo_ray.algorithms.awm:AWM"
    type: Literal["awm"] = "awm"
    weighting: ErrorWeighting = "huber"
    """Minus log-likelihood of a point with matching error q at sigma s: `plain` q, `sigma` s q, `root` s sqrt(q),
    `huber` (s / p) (q^p - 0^p) with p = `huber_power`, both powers with 1e-10 added to their base. With `plain` and
    `clip_range: null` the loss is the advantage times the evidence lower bound (ELBO) of arXiv 2602.04663."""
    huber_power: float = Field(default=0.25, gt=0, le=1)
    """Power p of `huber`, in (0, 1]."""
    clip_range: float | None = Field(default=1.0, gt=0)
    """Clip range of the likelihood ratio around 1, above 0; outside, the gradient that moves it further is zero.
    `null` has no ratio: the loss is the advantage times minus the log-likelihood, which has the same gradient while the
    policy is the one that sampled."""
    advantage_limit: float = Field(default=5.0, gt=0)
    """Maximum absolute deviation of a reward, in standard deviations of the group, above 0."""
    advantage_scale: float = Field(default=1.0, gt=0)
    """Advantage of a deviation of `advantage_limit`, above 0."""
    grid_share: float = Field(default=0.9, gt=0, le=1)
    """Share of the sampler's sigmas, from the noisy end, in (0, 1], from which the points are drawn."""
    anchor: AnchorSection = AnchorSection(old=0.1)
    """Anchors at the points of the loss. Without `old`, runs of other implementations collapsed."""
    old_decay: OldDecay = OldDecay(limit=0.3)
    """Decay of the old weights, the average that `anchor.old` keeps the policy near."""

    @property
    def compared(self) -> tuple[Role, ...]:
        """The policy that sampled, if the ratio can differ from 1."""
        return ("policy",) if self.optimizer_steps > 1 and self.clip_range is not None else ()

"""Options of the loss of a policy gradient."""

from typing import Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.selection import Selection, check_vote
from srpo_ray.config.base import Section


class SurrogateSection(Section):
    """Loss of a trained step, from the log-density of the step under policy and sampling policy. Defaults of PPO.

    `ratio` is the exponential of the difference of both log-densities, which are means over a sample's elements.
    """

    type: Literal["ppo", "guard", "dppo", "pair", "ranking"] = "ppo"
    """Form of the loss. `ppo`: clipped ratio times advantage; `guard` (GRPO-Guard): ppo with a ratio whose logarithm
    has mean 0 at every step, divided by the step's length; `dppo` (Flow-DPPO): ratio times advantage, without those
    steps that would move further than `divergence_limit`; `pair` (SPO, PSO): logistic preference of one image over
    another one at each step, relative to the initial model. With branches, the images of a pair share the state before
    the step; with `plan: {type: all}` or a window, a pair of finished images labels all steps of both. `ranking` (Dense
    reward): Plackett-Luce model of the ranking of a prompt's images, whose scores are the discounted log-ratios of
    their steps to the initial model."""
    clip_range: float = Field(default=1e-4, gt=0)
    """Clip range of the ratio around 1, above 0; outside, the gradient that moves it further is zero. `dppo` does not
    use it. Published: 1e-4 (ppo, ranking), 2e-6 (guard), 0.1 (pair)."""
    divergence_limit: float = Field(default=1e-5, gt=0)
    """Mean squared difference of the steps' means, over twice their variance, beyond which `dppo` removes a step."""
    beta: float = Field(default=10.0, gt=0)
    """Slope of the logistic preference in `pair` (published: 10 and 50), and factor of the scores in `ranking`, above
    0."""
    select: Selection = "best_worst"
    """Choice of the two images of a `pair`. `best_worst`: the highest and the lowest advantage; `vote`: those with the
    most and the fewest majorities of the reward models, if the majority agrees on the two (BalancedDPO); `dominance`:
    the largest difference of the summed rewards of which no reward model prefers the other image (PSO). A group without
    a pair has the weight 0."""
    min_gap: float = Field(default=0.0, ge=0)
    """Least difference of the weighted sums of the rewards between the images of a `pair`, at least 0; not with `vote`,
    whose votes have no common scale. SPO has a
    threshold t of the difference of the softmax of both scores, multiplied by k; that is `min_gap: 2 artanh(t) / k`,
    0.0062 for t = 0.3 and k = 100."""
    discount: float = Field(default=1.0, gt=0)
    """Weight of a step in `pair`, and in the scores of `ranking`, relative to the step before it, above 0. Below 1,
    noisy steps, which form the composition, count more; above 1, the later ones. The weights of the trained steps have
    the mean 1. Published: 0.9 (ranking)."""
    step_weight: Literal["density", "std", "unit"] = "density"
    """Factor of the logarithm of the ratio of a step. `density`: 1; `std`: the step's standard deviation, without which
    steps with little noise have the largest gradients (TempFlow-GRPO); `unit`: twice the step's variance, the
    log-density without its denominator (Coefficients-Preserving Sampling)."""
    ratio: Literal["recorded", "exact"] = "recorded"
    """Log-density that the ratio compares with. `recorded`: that of the rollout, which differs by the rounding of
    another forward pass; `exact`: the present one without gradient, so that the ratio is 1 and rounding clips nothing.
    Only with one optimizer step per rollout, in which the policy has not moved yet; `pair` and `ranking` do not use
    it."""
    kl: float = Field(default=0.0, ge=0)
    """Weight of the divergence from the initial model: the mean squared difference of the steps' means, over twice
    their variance. Above 0, it costs a call without gradient per trained step."""

    @model_validator(mode="after")
    def _check_weight(self) -> Self:
        if self.type == "guard" and self.step_weight != "density":
            raise ValueError(
                f"expected step_weight=density with type=guard, which has a weight of its own, got {self.step_weight};"
                " remove it or set type to ppo"
            )
        return self

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        changed = {
            "select": (self.select != "best_worst", ("pair",)),
            "min_gap": (self.min_gap > 0, ("pair",)),
            "discount": (self.discount != 1, ("pair", "ranking")),
        }
        for name, (is_changed, types) in changed.items():
            if is_changed and self.type not in types:
                raise ValueError(
                    f"expected type {' or '.join(types)} with {name}={getattr(self, name)}, got {self.type}, which"
                    f" has no use for it; remove {name} or change the type"
                )
        check_vote(self.select, {"min_gap": self.min_gap})
        return self

    @property
    def needs_reference(self) -> bool:
        """True if the loss compares with the initial model."""
        return self.type in ("pair", "ranking") or self.kl > 0

    @property
    def needs_old_mean(self) -> bool:
        """True if the loss compares the mean of a step with that of the sampling policy."""
        return self.type in ("guard", "dppo")

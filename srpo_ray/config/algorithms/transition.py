"""Options of the stochastic steps of a sampler."""

from typing import Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import Section

StepKind = Literal["euler_maruyama", "frozen"]
"""Discretisation of the sampler's SDE."""
NoiseKind = Literal["constant", "flow", "cps"]
"""Dependence of the noise on sigma."""


class TransitionSection(Section):
    """Stochastic step of the sampler: its discretisation and its noise. Defaults of DanceGRPO's FLUX recipe."""

    step: StepKind = "euler_maruyama"
    """Discretisation of the SDE. `euler_maruyama`: an Euler step, a drift and noise, whose image converges with the
    number of steps but is noisier at few steps; `frozen`: the step keeps the estimates of clean image and noise, and
    mixes new noise into the latter at constant variance."""
    noise: NoiseKind = "constant"
    """Noise of a step. `constant`: diffusion `strength` (DanceGRPO); `flow`: `strength * sqrt(sigma / (1 - sigma))`
    (Flow-GRPO); `cps`: the share `sin(strength * pi / 2)` of the noise is new, whatever the length of the step
    (Coefficients-Preserving Sampling; only with `frozen`). With strength 1 all noise is new: the sampler of models that
    are distilled to few steps, which mixes the predicted clean image with fresh noise."""
    strength: float = Field(default=0.3, gt=0)
    """Strength of the noise, above 0; at most 1 for `cps`."""

    @model_validator(mode="after")
    def _check_noise(self) -> Self:
        if self.noise == "cps" and (self.step != "frozen" or self.strength > 1):
            raise ValueError(
                "expected step=frozen and a strength of at most 1 with noise=cps, whose noise replaces a share of the"
                f" old one, got step={self.step} and strength={self.strength:g}; set step to frozen and strength to"
                " 0.8, or noise to flow"
            )
        return self

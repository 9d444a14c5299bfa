"""Options of inverted points: states on the way from a clean image to noise along a model's own velocity."""

from typing import Literal

from pydantic import Field

from srpo_ray.config.base import Section


class Inversion(Section):
    """Inversion of clean images, from sigma 0 to 1 on the sampler's grid of `steps` steps, without gradient."""

    steps: int = Field(default=10, ge=1)
    """Steps from the clean image to pure noise, at least 1; the state after each is a possible point. All are computed.
    Published: 10 (InPO), 10 and 5 (SmPO)."""
    by: Literal["policy", "reference"] = "policy"
    """Weights that give the velocity of the inversion."""
    noise: float = Field(default=0.0, ge=0)
    """Standard deviation of the noise that a step adds, divided by the root of the step's size in sigma, at least 0;
    the noise added up to sigma s has the variance `noise^2 s`. Published: 0.1 (InPO), in a form of its own."""
    averaged: bool = False
    """True for steps with the mean of the velocities at both ends, the second at a predicted state (SmPO): two calls
    each."""

    @property
    def calls(self) -> int:
        """Calls of the inversion of an image."""
        return self.steps * (2 if self.averaged else 1)

"""Parts of learning from preferences: sigmas of the points, a moving reference, and doubt about labels."""

from typing import Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import Section


class PointSigmas(Section):
    """Distribution of sigma. `logit_normal` and `uniform` are shifted, and cut to the window."""

    type: Literal["logit_normal", "uniform", "grid"] = "logit_normal"
    """`logit_normal`: the logistic function of a normal number; `uniform`; `grid`: the sigmas of the sampler, or of
    the inversion with `coupling: inverted`, each equally likely. `grid` has no mean, std or shift."""
    mean: float = 0.0
    """Mean of the normal number of `logit_normal`."""
    std: float = Field(default=1.0, gt=0)
    """Standard deviation of the normal number of `logit_normal`, above 0."""
    shift: float = Field(default=3.0, gt=0)
    """Shift h of a drawn s to `h s / (1 + (h - 1) s)`, above 0; 1 shifts nothing."""
    window: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest sigma, in [0, 1]."""

    @model_validator(mode="after")
    def _check_window(self) -> Self:
        low, high = self.window
        if not 0 <= low < high <= 1:
            raise ValueError(
                f"expected window as two sigmas with 0 <= lowest < highest <= 1, got {low:g} and {high:g}; give the"
                " lower one first"
            )
        return self


class MovingReference(Section):
    """Older weights of the policy as reference: their moving average, or a copy from time to time."""

    ema: float | None = Field(default=None, gt=0, le=1)
    """Share of the reference that stays after an update, in (0, 1]; 1 keeps the weights that training began with."""
    refresh: int | None = Field(default=None, ge=1)
    """Updates after which the policy's weights are copied."""

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.ema is None) == (self.refresh is None):
            raise ValueError(
                f"expected one of ema and refresh for a moving reference, got ema={self.ema} and"
                f" refresh={self.refresh}; set one of them"
            )
        return self

    def kept(self, update: int) -> float:
        """Return the share of the reference that stays after an update, counted from 0."""
        if self.ema is not None:
            return self.ema
        assert self.refresh is not None
        return 0.0 if (update + 1) % self.refresh == 0 else 1.0


class Doubt(Section):
    """Weight `1 / (1 + temperature * (1 - sigmoid(scale * beta / 2 * m)))` of a pair with margin m, a constant."""

    temperature: float = Field(default=10.0, gt=0)
    """Strength, above 0: a pair that the policy rejects has the weight 1 / (1 + temperature)."""
    scale: float = Field(default=1.0, gt=0)
    """Factor of `beta / 2 * m` in the policy's own probability of the preference, above 0."""

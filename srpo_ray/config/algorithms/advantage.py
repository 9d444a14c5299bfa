"""Options of the advantages of images within the group of their prompt."""

from typing import Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import Section


class AdvantageSection(Section):
    """Advantage of an image: its reward, centred and scaled within the group or the update. Defaults of DanceGRPO."""

    rewards: Literal["summed", "each"] = "summed"
    """Combination of several reward models. `summed`: their weighted sum is compared; `each`: every model's scores are
    centred and scaled within the group, and then summed with the weights, so that no model dominates by its scale."""
    rank: Literal["none", "win_rate"] = "none"
    """`win_rate` replaces a score by the share of the group's images that it exceeds, where a tie counts half; the size
    of the differences then does not matter. A reward that compares images in pairs (a `judge` with `comparison`) is
    asked for all pairs of the group instead, and the win rate is the mean of its preferences. It then needs whole
    groups in a forward pass, the plain query, and with several rewards `rewards: each`."""
    margin: float = Field(default=0.0, ge=0)
    """Difference of scores that `win_rate` still counts as a tie, at least 0; unused for comparisons of pairs."""
    centre: Literal["group", "update"] = "group"
    """Mean that is subtracted: that of the prompt's group, or that of all images of the update."""
    scale: Literal["group", "update", "none"] = "group"
    """Standard deviation that divides: that of the prompt's group, that of all images of the update, or none."""
    limit: float = Field(default=5.0, gt=0)
    """Maximum absolute advantage, above 0."""
    history: int | None = Field(default=None, ge=2)
    """Number of a prompt's last rewards from earlier updates that join its group in mean and standard deviation, as in
    DDPO; only with summed rewards, and `centre` and `scale` of the group. The rewards of every prompt are part of the
    checkpoints, so it suits small sets of prompts. Unset takes the group alone."""

    @model_validator(mode="after")
    def _check_history(self) -> Self:
        found = (self.rewards, self.rank, self.centre, self.scale)
        if self.history and found != ("summed", "none", "group", "group"):
            raise ValueError(
                f"expected rewards=summed, rank=none, centre=group and scale=group with history={self.history}, got"
                f" {', '.join(found)}; a history extends the group of a prompt, so remove it or these settings"
            )
        return self

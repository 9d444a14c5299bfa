"""Options of Direct-Align."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from srpo_ray.config.algorithms.base import Calls
from srpo_ray.config.algorithms.distribution import DistributionSection
from srpo_ray.config.algorithms.window import WindowSection


class DirectAlignConfig(WindowSection):
    """Direct-Align with a plain reward, arXiv 2509.06942; window and strength default to SRPO's HPSv2.1 recipe."""

    code: ClassVar[str] = "srpo_ray.algorithms.direct_align:DirectAlign"
    keeps_rollout: ClassVar[bool] = True
    type: Literal["direct_align"] = "direct_align"

    distribution: DistributionSection | None = None
    """Target distribution of attributes: each image of an update is assigned an attribute, and its reward is the score
    for `<own attribute>. <prompt>` minus the mean over the others. Unset rewards the query."""

    @property
    def compares_texts(self) -> bool:
        """True with control words or a distribution of attributes."""
        return self.distribution is not None or super().compares_texts

    @property
    def attributes(self) -> tuple[str, ...]:
        """Attributes of the target distribution."""
        return self.distribution.attributes if self.distribution else ()

    @property
    def num_texts(self) -> int:
        """Number of texts of the trained reward's query: one for each attribute of a distribution."""
        return len(self.attributes) or super().num_texts

    @model_validator(mode="after")
    def _check_distribution(self) -> Self:
        if self.distribution and self.query != "plain":
            raise ValueError(
                f"expected query plain with a distribution, got {self.query}; the assigned attributes are the texts of"
                " the reward, so remove query or distribution"
            )
        return self

    def calls(self, num_steps: int) -> Calls:
        """Count one rollout with its noise and one loss, and a score of each rollout for each attribute."""
        measured = len(self.distribution.attributes) if self.distribution else 0
        return Calls(num_steps, guidance_scale=self.guidance_scale, measured=measured, kept=2)

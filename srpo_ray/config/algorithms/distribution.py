"""Options of a target distribution of attributes over the images of an update."""

import math
from typing import Annotated, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import Section
from srpo_ray.config.sources import text_key


class DistributionSection(Section):
    """Target shares of attributes that prompts leave open, such as 75 % bright and 25 % dark images.

    Source: distributional alignment by fine-tuning, arXiv 2311.07604, which assigns classes by optimal transport; here
    the score of an image for `<attribute>. <prompt>` replaces a classifier.
    """

    attributes: tuple[str, ...] = Field(min_length=2)
    """Words of the attributes, for example `[bright, dark]`."""
    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(min_length=2)
    """Target share of each attribute among the images of an update, in (0, 1); the sum is 1."""
    offsets: tuple[float, ...] | None = None
    """Numbers added to the scores of the attributes, such as `[0.2, 0]`, in units of the reward. Of two equal scores,
    rewards need not mean an image that is as bright as dark: offsets move that point. Unset is 0 for all."""

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if len(self.shares) != len(self.attributes):
            raise ValueError(
                f"expected one share for each of the {len(self.attributes)} attributes, got {len(self.shares)}; give"
                " both lists the same length"
            )
        if self.offsets is not None and len(self.offsets) != len(self.attributes):
            raise ValueError(
                f"expected one offset for each of the {len(self.attributes)} attributes, got {len(self.offsets)}; give"
                " both lists the same length"
            )
        if not math.isclose(sum(self.shares), 1, abs_tol=1e-6):
            raise ValueError(f"expected shares of sum 1, got {sum(self.shares):g}; change them")
        if len({text_key(word) for word in self.attributes}) < len(self.attributes):
            raise ValueError(f"expected different attributes, got {list(self.attributes)}; remove the repeats")
        return self

"""What an update optimizes. Class defaults are vetted settings; their sources stand beside them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from srpo_ray.config.base import Section
from srpo_ray.config.baselines import (
    AlignPropConfig,
    DanceGRPOConfig,
    DirectAlignConfig,
    DRaFTConfig,
    ReFLConfig,
)
from srpo_ray.config.window import WindowSection

Branch = Literal["denoise", "inversion"]
Discount = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]


class ControlWords(Section):
    """A named set of control words that steers a relative reward."""

    positive: tuple[str, ...] = Field(min_length=1)
    """Words to move towards; cycled over updates."""
    negative: tuple[str, ...] = Field(min_length=1)
    """Words to move away from; cycled over updates."""

    @model_validator(mode="after")
    def _check_words(self) -> Self:
        sides = [{word.strip().casefold() for word in side} for side in (self.positive, self.negative)]
        if "" in sides[0] | sides[1]:
            raise ValueError("expected words in positive and negative, got an empty one; remove it")
        if both := sides[0] & sides[1]:
            raise ValueError(
                f"expected positive and negative to share no word, got {', '.join(map(repr, sorted(both)))} in both,"
                " whose difference is always 0; remove it from one of them"
            )
        return self


PAPER_WORDS = ControlWords(
    positive=("Natural-lighting", "Detail", "Detailed", "Real"),
    negative=("Concept art", "Painting", "Anime", "Flat", "Oil"),
)


class SRPOConfig(WindowSection):
    """Semantic Relative Preference Optimization, arXiv 2509.06942; defaults of its HPSv2.1 recipe."""

    type: Literal["srpo"] = "srpo"
    renoisings: int = Field(default=1, ge=1)
    """Landing points per rollout; each costs a gradient step per branch, but no rollout."""
    control_words: str = "paper"
    """Name of a set in `word_sets`."""
    word_cycle: Literal["per_update", "per_sample"] = "per_update"
    """Whether the next words of the set are taken with each update or with each sample."""
    word_start: int = Field(default=0, ge=0)
    """Index of the words of the first update, counted on from there and around; the release starts at 1."""
    query: Literal["relative", "guided", "plain"] = "relative"
    """`relative`: own text minus the other; `guided`: `k * own + (1 - k) * other`; `plain`: the prompt itself."""
    query_guidance: float = Field(default=2.0, gt=0)
    """`k` of the guided query, before the discount is added."""
    branches: tuple[Branch, ...] = Field(default=("denoise", "inversion"), min_length=1)
    """Directions of the gradient step; `inversion` steps towards noise and acts as the regulariser."""
    denoise_discount: Discount | None = (0.1, 0.25)
    """Extra weight of the positive text, from the clean to the noisy end of the window; null is none."""
    inversion_discount: Discount | None = (0.3, 0.01)
    """Extra weight of the negative text, from the clean to the noisy end of the window; null is none."""

    @model_validator(mode="after")
    def _check_branches(self) -> Self:
        if len(set(self.branches)) != len(self.branches):
            raise ValueError(f"expected each branch at most once, got {list(self.branches)}; remove the repeats")
        if self.query == "plain" and "inversion" in self.branches:
            raise ValueError(
                "expected branches [denoise] with query plain, got the inversion branch too; it needs a negative"
                " text, so set branches to [denoise] or query to relative"
            )
        return self


DEFAULT_TYPE = "srpo"
"""The algorithm of a config that names none."""


def _name_default(section: Any) -> Any:
    return {"type": DEFAULT_TYPE, **section} if isinstance(section, Mapping) else section


AlgorithmConfig = Annotated[
    SRPOConfig | DirectAlignConfig | ReFLConfig | DRaFTConfig | AlignPropConfig | DanceGRPOConfig,
    Field(discriminator="type"),
    BeforeValidator(_name_default),
]
"""Section `algorithm`: the class whose `type` it gives."""

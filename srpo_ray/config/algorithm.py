"""What an update optimizes. Class defaults are vetted settings; their sources stand beside them."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from srpo_ray.config.base import AlgorithmSection, Scope, Section
from srpo_ray.config.baselines import (
    AlignPropConfig,
    DanceGRPOConfig,
    DirectAlignConfig,
    DRaFTConfig,
    ReFLConfig,
    check_window,
)
from srpo_ray.config.model import Shift

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


class SRPOConfig(AlgorithmSection):
    """Semantic Relative Preference Optimization, arXiv 2509.06942; defaults of its HPSv2.1 recipe."""

    takes_images: ClassVar[bool] = True
    type: Literal["srpo"] = "srpo"
    timestep_window: tuple[int, int] = (5, 25)
    """First and last index of the `window_grid_steps` grid between which updates land; 0 is pure noise."""
    sigma_window: tuple[float, float] | None = None
    """The same window as sigmas, the noisier first, for example [0.96, 0.75]; replaces `timestep_window`."""
    window_grid_steps: int = Field(default=50, ge=2)
    """Steps of the sigma grid that `timestep_window` counts in."""
    window_points: int = Field(default=1000, ge=20)
    """Points of the even re-gridding of the window."""
    window_shift: Shift = 3.0
    """Shift of the sigma grid that `timestep_window` counts in; `resolution` is FLUX's own."""
    interpolation_strength: float = Field(default=0.9, gt=0, lt=1)
    """Share of the window's noise removed by the known noise and not by the model."""
    renoisings: int = Field(default=1, ge=1)
    """Landing points per rollout; each costs a gradient step per branch, but no rollout."""
    landing: Scope = "per_sample"
    """Whether every sample lands on a sigma of its own, all of a worker's on one, or all of an update."""
    noise: Scope = "shared"
    """Whether all rollouts of an update start from one noise, all of a worker's, or each from its own."""
    control_words: str = "paper"
    """Name of a set in `word_sets`."""
    word_cycle: Literal["per_update", "per_sample"] = "per_update"
    """Whether the next words of the set are taken with each update or with each sample."""
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
    hinge: float = 0.7
    """Loss is `relu(hinge - reward)`; set it above the reward's range for a linear loss."""
    guidance_scale: float = Field(default=3.5, ge=0)
    """Guidance embedding of the transformer call that carries gradient."""

    @model_validator(mode="after")
    def _check_window(self) -> Self:
        check_window(self.timestep_window, self.window_grid_steps)
        if self.sigma_window and not 1 > self.sigma_window[0] > self.sigma_window[1] > 0:
            raise ValueError(
                f"expected sigma_window [noisy, clean] with 1 > noisy > clean > 0, got {list(self.sigma_window)};"
                " 1 is pure noise, where the clean picture cannot be recovered, so give the noisier end first"
            )
        return self

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

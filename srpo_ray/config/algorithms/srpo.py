"""Options of SRPO."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.base import Calls
from srpo_ray.config.algorithms.query import Query
from srpo_ray.config.algorithms.window import WindowSection

Branch = Literal["denoise", "inversion"]
Discount = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]


class SRPOConfig(WindowSection):
    """Semantic Relative Preference Optimization (SRPO), arXiv 2509.06942; defaults of its HPSv2.1 recipe."""

    code: ClassVar[str] = "srpo_ray.algorithms.srpo:SRPO"
    plain_settings: ClassVar[str] = "set algorithm.query to plain and algorithm.branches to [denoise]"
    keeps_rollout: ClassVar[bool] = True
    type: Literal["srpo"] = "srpo"
    renoisings: int = Field(default=1, ge=1)
    """Landing points per rollout; each adds a gradient step per branch, but no rollout."""
    query: Query = "relative"
    """Text of the reward. `relative`: own text minus other text; `guided`: `k * own + (1 - k) * other`; `plain`: the
    prompt without control words. The own text is the positive one of `denoise` and the negative one of `inversion`."""
    word_start: int = Field(default=0, ge=0)
    """Index of the words of the first update, from which the cycle starts; the release starts at 1."""
    branches: tuple[Branch, ...] = Field(default=("denoise", "inversion"), min_length=1)
    """Directions of the gradient step: `denoise` towards data, `inversion` towards noise as a regulariser."""
    denoise_discount: Discount | None = (0.1, 0.25)
    """Additional weight of the positive text, at the clean and at the noisy end of the window; null disables it."""
    inversion_discount: Discount | None = (0.3, 0.01)
    """Additional weight of the negative text, at the clean and at the noisy end of the window; null disables it."""

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

    def calls(self, num_steps: int) -> Calls:
        """Count one rollout with its noise, then one loss per landing point and branch."""
        branches = len(self.branches)
        return Calls(
            num_steps,
            losses=self.renoisings * branches,
            in_flight=branches,
            guidance_scale=self.guidance_scale,
            kept=2,
        )

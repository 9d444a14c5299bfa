"""Options of SRPO."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.base import Calls
from srpo_ray.config.algorithms.window import WindowSection

Branch = Literal["denoise", "inversion"]
Discount = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]


class SRPOConfig(WindowSection):
    """Semantic Relative Preference Optimization, arXiv 2509.06942; defaults of its HPSv2.1 recipe."""

    code: ClassVar[str] = "srpo_ray.algorithms.srpo:SRPO"
    plain_settings: ClassVar[str] = "set algorithm.query to plain and algorithm.branches to [denoise], "
    type: Literal["srpo"] = "srpo"
    renoisings: int = Field(default=1, ge=1)
    """Landing points per rollout; each costs a gradient step per branch, but no rollout."""
    control_words: str = "paper"
    """Name of a set in `word_sets`."""
    word_cycle: Literal["per_update", "per_sample"] = "per_update"
    """Step of the cycle through the set: the next words with each update, or with each sample."""
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

    def calls(self, num_steps: int) -> Calls:
        """One rollout, then a loss per landing point and branch."""
        branches = len(self.branches)
        return Calls(
            num_steps, losses=self.renoisings * branches, in_flight=branches, guidance_scale=self.guidance_scale
        )

    @property
    def word_set(self) -> str:
        """`control_words`."""
        return self.control_words

    @property
    def compares_texts(self) -> bool:
        """True unless the query is the plain prompt."""
        return self.query != "plain"

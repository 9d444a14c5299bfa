"""Base of the algorithms' config classes, with the facts for checks and planner: needs, and calls of an update."""

from abc import abstractmethod
from typing import ClassVar, Literal, NamedTuple

from srpo_ray.config.base import Section

Role = Literal["policy", "reference", "old", "ema"]
"""Weights that a phase uses: the trained ones (`policy`), the initial ones (`reference`), an older copy (`old`), or the
exponential moving average (`ema`)."""


class Needs(NamedTuple):
    """Inputs of an algorithm besides prompts."""

    reward: Literal["score", "gradient"] = "gradient"
    """`gradient`: trained rewards must be differentiable in the image; `score`: any black-box score is enough."""
    images: Literal["none", "optional"] = "none"
    """`optional`: real images (`data.images`) may replace rollouts."""
    accepts_clean_images: bool = False
    """True if clean images from any source may replace on-policy rollouts: kept from an earlier update
    (`rollout.reuse`) or sampled by the base model (`rollout.source`)."""
    accepts_approximate_rollouts: bool = False
    """True if a rollout may deviate from the sampler (`rollout.cache_threshold`, `rollout.base`), because no loss uses
    the probability of its steps: its result is a constant from which the steps with gradient start."""
    roles: frozenset[Role] = frozenset()
    """Roles besides the policy that phases use; the engine keeps copies of the weights of these roles only."""


class Calls(NamedTuple):
    """Model calls of one micro-batch of prompts, all with rollouts."""

    forward: float
    """Transformer calls without gradient; the mean if the algorithm draws their number."""
    losses: int = 1
    """Losses of one optimizer step, each with a separate graph."""
    in_flight: int = 1
    """Losses whose graphs the algorithm keeps alive until the backward pass over their sum."""
    chained: int = 1
    """Maximum number of transformer calls with gradient in one loss."""
    mean_chained: float = 1.0
    """Mean number of transformer calls with gradient in one loss."""
    images_per_prompt: int = 1
    """Images per prompt."""
    passes_per_prompt: int = 1
    """Micro-batches among which the images of a prompt are divided equally."""
    phases: int = 1
    """Phases of an update; each gathers the weights once to sample."""
    optimizer_steps: int = 1
    """Optimizer steps of an update, which all use the same rollouts."""
    decodes: bool = True
    """True if the gradient passes through the decoder; otherwise images are decoded once, without gradient."""
    guidance_scale: float | None = None
    """Guidance of the calls with gradient; None uses that of the rollout."""


class AlgorithmSection(Section):
    """Base of every algorithm's config class; its field `type` names it in section `algorithm`."""

    code: ClassVar[str]
    """`package.module:Class` of the algorithm; trainer workers import it."""
    needs: ClassVar[Needs] = Needs()

    @abstractmethod
    def calls(self, num_steps: int) -> Calls:
        """Count the model calls of a micro-batch.

        Args:
            num_steps: Steps of the sampler.
        """

    def check_rollout(self, num_steps: int) -> None:
        """Check that the algorithm can train with the sampler.

        Args:
            num_steps: Steps of the sampler.

        Raises:
            ValueError: If there are too few.
        """

    def check_images(self, images: str | None, image_ratio: float) -> None:
        """Check the settings against the real images of a run.

        Args:
            images: `data.images`.
            image_ratio: `data.image_ratio`.

        Raises:
            ValueError: If they do not fit.
        """

    @property
    def starts_from_images(self) -> bool:
        """True if given images are noised and sampled further; otherwise they replace rollouts."""
        return False

    @property
    def compares_texts(self) -> bool:
        """True if the trained reward is a difference of texts, which needs rewards that read text."""
        return self.word_set is not None

    @property
    def word_set(self) -> str | None:
        """Name of the set in `word_sets` whose texts the trained reward compares; None without control words."""
        return None

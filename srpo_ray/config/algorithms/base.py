"""Facts that each algorithm states about itself for checks and planner: its needs, and the calls of an update."""

from abc import abstractmethod
from typing import ClassVar, Literal, NamedTuple

from srpo_ray.config.base import Section

Role = Literal["policy", "reference", "old", "ema"]
"""Weights that a phase asks: those that are trained, the initial ones, an older copy, or the moving average."""


class Needs(NamedTuple):
    """Inputs of an algorithm besides prompts."""

    reward: Literal["score", "gradient"] = "gradient"
    """`gradient`: trained rewards must be differentiable in the image; `score`: a black box will do."""
    images: Literal["none", "optional"] = "none"
    """`optional`: real images (`data.images`) may take the place of rollouts."""
    accepts_clean_images: bool = False
    """True if clean images may take the place of rollouts, wherever they come from: kept from an earlier update
    (`rollout.reuse`) or sampled by the base model (`rollout.source`)."""
    roles: frozenset[Role] = frozenset()
    """Weights besides the policy's that phases ask; a copy is kept of none that is not listed."""


class Calls(NamedTuple):
    """Model calls of one micro-batch of prompts that are all rolled out."""

    forward: float
    """Transformer calls without gradient, on average where the algorithm draws their number."""
    losses: int = 1
    """Losses of one optimizer step, each with a graph of its own."""
    in_flight: int = 1
    """Losses whose graphs the algorithm keeps together until the backward pass over their sum."""
    chained: int = 1
    """Most transformer calls with gradient in one loss."""
    mean_chained: float = 1.0
    """The same on average."""
    images_per_prompt: int = 1
    """Images of each prompt."""
    passes_per_prompt: int = 1
    """Micro-batches that the images of a prompt are divided among, in equal parts."""
    phases: int = 1
    """Times that the weights are gathered to sample: phases of an update."""
    optimizer_steps: int = 1
    """Optimizer steps of an update, which all use what was collected once."""
    decodes: bool = True
    """True if the gradient comes through the decoder; else images are decoded without gradient, once."""
    guidance_scale: float | None = None
    """Guidance of the calls with gradient; None is that of the rollout."""


class AlgorithmSection(Section):
    """Base of every algorithm's config class; its field `type` names it in section `algorithm`."""

    code: ClassVar[str]
    """`package.module:Class` of the algorithm, which is imported by a process that trains."""
    needs: ClassVar[Needs] = Needs()
    plain_settings: ClassVar[str] = ""
    """Advice on how to compare no texts, for an algorithm that can do without: `set algorithm.a to b, `."""

    @abstractmethod
    def calls(self, num_steps: int) -> Calls:
        """Model calls of a micro-batch.

        Args:
            num_steps: Steps of the sampler.
        """

    def check_rollout(self, num_steps: int) -> None:
        """Refuse a sampler that the algorithm cannot train with.

        Args:
            num_steps: Steps of the sampler.

        Raises:
            ValueError: If there are too few.
        """

    @property
    def word_set(self) -> str | None:
        """Name of the set in `word_sets` that queries take; None for an algorithm without control words."""
        return None

    @property
    def compares_texts(self) -> bool:
        """True if the trained reward is a difference of texts, which a model that reads no text cannot give."""
        return False

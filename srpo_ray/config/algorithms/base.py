"""Base of the algorithms' config classes, with the facts for checks and planner: needs, and calls of an update."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, Self

from pydantic import model_validator

from srpo_ray.config.algorithms.anchor import AnchorSection
from srpo_ray.config.algorithms.roles import Role as Role
from srpo_ray.config.base import Section

Judged = Literal["pairs", "labels", "captions"]
"""Rows of judged images: two images of which one is preferred, one image that is liked or not, or one image with its
caption and a wrong one."""


class Needs(NamedTuple):
    """Inputs of an algorithm besides prompts."""

    reward: Literal["none", "score", "gradient"] = "gradient"
    """`gradient`: trained rewards must be differentiable in the image; `score`: any black-box score is enough; `none`:
    updates ask no reward, so `rewards.models` may be empty."""
    images: Literal["none", "optional", "pairs"] = "none"
    """`optional`: real images (`data.images`) may replace rollouts or be compared with them; `pairs`: the algorithm
    trains on the judged images of `data.pairs`."""
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
    """Transformer calls without gradient of a rollout; the mean if the algorithm draws their number."""
    compared: int = 0
    """Transformer calls without gradient at points that the losses visit, for all images of the micro-batch. Updates
    with reused or given images make them too."""
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
    rollout_parts: int = 1
    """Equal parts of the images of a micro-batch that are sampled and decoded one after another."""
    rows_with_gradient: int | None = None
    """States of a prompt in the largest call with gradient of a micro-batch; None has one for each image."""
    crosses_texts: bool = False
    """True if a call with gradient has each of these states with the texts of all prompts of the micro-batch."""
    forward_size: float = 1.0
    """Mean size of a call without gradient, as a share of the largest: below 1 where images share states."""
    gradient_size: float = 1.0
    """Mean size of a call with gradient, as a share of the largest."""
    scores_per_image: int = 1
    """Times that an image is decoded and scored, without gradient; the count is another one if `decodes`."""
    measured: int = 0
    """Times that an image is scored in phases, without gradient and beside the losses; one decoding serves all."""
    pairs: int = 0
    """Pairs of images of a prompt that are compared by each reward that compares pairs."""
    phases: int = 1
    """Phases of an update; each gathers the weights once to sample."""
    optimizer_steps: int = 1
    """Optimizer steps of an update, which all use the same rollouts."""
    decodes: bool = True
    """True if the gradient passes through the decoder; otherwise images are decoded once, without gradient."""
    undecoded: int = 0
    """Losses among `losses` that decode no image although the algorithm `decodes`."""
    guidance_scale: float | None = None
    """Guidance of the calls with gradient; None uses that of the rollout."""
    given_images: int = 1
    """Clean images of each row of a micro-batch that the data gives, where it gives any."""
    kept: float = 1.0
    """Tensors of tokens `[N, C]` of an image that an update keeps from its rollout to its losses, at most. A state that
    several images share counts once."""

    @property
    def decodings(self) -> int:
        """Times that an update decodes and scores an image."""
        return (self.losses - self.undecoded) * self.optimizer_steps if self.decodes else self.scores_per_image


class AlgorithmSection(Section):
    """Base of every algorithm's config class; its field `type` names it in section `algorithm`."""

    code: ClassVar[str]
    """`package.module:Class` of the algorithm; trainer workers import it."""
    needs: ClassVar[Needs] = Needs()
    """Inputs with the default settings."""
    keeps_rollout: ClassVar[bool] = False
    """True if `Algorithm.reached` finds sampled tokens in the collected value; otherwise an anchor samples its own."""
    anchors_itself: ClassVar[bool] = False
    """True if the algorithm's losses contain the anchors, at their own points; otherwise an anchor adds a loss."""
    keeps_old: ClassVar[bool] = False
    """True if `Algorithm.old_kept` lets the old weights follow the policy slowly, so that an anchor to them acts."""
    anchor: AnchorSection = AnchorSection()
    """Losses beside the algorithm's own that keep the model near its initial weights, its average or real images."""

    @property
    def needs_likelihood(self) -> bool:
        """True if the loss takes the error of a velocity for a likelihood, so that it must be one of data."""
        return False

    @abstractmethod
    def calls(self, num_steps: int) -> Calls:
        """Count the model calls of a micro-batch, without those of an anchor that adds a loss.

        Args:
            num_steps: Steps of the sampler.
        """

    def total_calls(self, num_steps: int) -> Calls:
        """Count the model calls of a micro-batch, anchors included.

        Args:
            num_steps: Steps of the sampler.
        """
        calls, anchor = self.calls(num_steps), self.anchor
        if self.anchors_itself or not anchor.active:
            return calls
        losses, images = calls.losses + 1, calls.images_per_prompt // calls.passes_per_prompt
        # The anchor's call has all images, of which the algorithm's own may have fewer states.
        share = (calls.rows_with_gradient or images) / images
        return calls._replace(
            forward=calls.forward + (0 if self.keeps_rollout else num_steps),
            compared=calls.compared + len(anchor.weights),
            losses=losses,
            undecoded=calls.undecoded + 1,
            rows_with_gradient=None,
            gradient_size=(calls.losses * calls.gradient_size * share + 1) / losses,
            mean_chained=(calls.losses * calls.mean_chained + 1) / losses,
            phases=calls.phases + len(anchor.weights) + (not self.keeps_rollout),
            kept=calls.kept + len(anchor.weights) + (not self.keeps_rollout),
        )

    @property
    def inputs(self) -> Needs:
        """Inputs of the algorithm with these settings; by default `needs`."""
        return self.needs

    @property
    def roles(self) -> frozenset[Role]:
        """Roles besides the policy that phases use with these settings."""
        return self.inputs.roles | self.anchor.weights.keys()

    @model_validator(mode="after")
    def _check_old_anchor(self) -> Self:
        if self.anchor.old and not self.keeps_old:
            raise ValueError(
                f"expected anchor.old = 0 without old weights of its own, got {self.anchor.old:g}; the old weights of"
                " this algorithm equal the policy's, so set anchor.ema with training.ema, or anchor.reference"
            )
        return self

    def check_rollout(self, num_steps: int) -> None:
        """Check that the algorithm can train with the sampler.

        Args:
            num_steps: Steps of the sampler.

        Raises:
            ValueError: If there are too few.
        """

    def check_comparisons(self, names: Sequence[str], count: int) -> None:
        """Check that the algorithm can use rewards that compare pairs of images; by default it uses their scores.

        Args:
            names: Trained rewards that compare pairs, at least one.
            count: Number of trained rewards.

        Raises:
            ValueError: If it cannot.
        """

    def check_images(self, images: str | None, image_ratio: float) -> None:
        """Check the settings against the real images of a run.

        Args:
            images: `data.images`.
            image_ratio: `data.image_ratio`.

        Raises:
            ValueError: If they do not fit.
        """

    def check_micro_batch(self, size: int | None, *, several_sizes: bool = False) -> None:
        """Check the settings against the size of a forward pass.

        Args:
            size: `training.micro_batch_size`.
            several_sizes: True with `model.sizes`, whose forward passes have one prompt.

        Raises:
            ValueError: If it does not fit.
        """

    @property
    def judged(self) -> Judged | None:
        """Kind of the rows of `data.pairs` that the algorithm trains on; None if it takes none."""
        return None

    @property
    def uses_own_captions(self) -> bool:
        """True if the second image of a pair has a caption of its own."""
        return False

    @property
    def samples_for_images(self) -> bool:
        """True if the policy samples although the data gives images, from which rollouts start, with which they are
        compared, or which it inverts; otherwise given images replace rollouts."""
        return False

    @property
    def compares_texts(self) -> bool:
        """True if the trained reward is a difference of texts, which needs rewards that read text."""
        return self.word_set is not None

    @property
    def attributes(self) -> tuple[str, ...]:
        """Words, besides control words, that the trained reward reads before the prompt."""
        return ()

    @property
    def num_texts(self) -> int:
        """Number of texts of the trained reward's query: two with control words, else the prompt alone."""
        return 1 if self.word_set is None else 2

    @property
    def compares_images(self) -> bool:
        """True if the algorithm uses comparisons of all pairs of a prompt's images, of the rewards that make them."""
        return False

    @property
    def word_set(self) -> str | None:
        """Name of the set in `word_sets` whose texts the trained reward compares; None without control words."""
        return None

"""Options of preference optimization on images that are sampled in the update: groups, their ranking, real images."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.algorithms.base import AlgorithmSection, Judged
from srpo_ray.config.algorithms.group import check_images_per_pass
from srpo_ray.config.algorithms.selection import Selection, check_vote

PairSource = Literal["pairs", "labels", "captions", "online", "self_play"]
"""Source of the images that are compared."""
GROUP_SIZE = 4
"""Default number of images of a prompt with `source: online`."""


class SampledPairsSection(AlgorithmSection):
    """Base with the options of sampled images. `online` and `self_play` sample; the other sources read files."""

    source: PairSource = "pairs"
    """Images that are compared. Rows of `data.pairs`: `pairs` of images; single images with `labels`, which `kto`,
    `sft` and `contrastive` accept; or `captions`, images with a right and a wrong caption, compared at one point (TPO,
    arXiv 2509.25771). `online`: two of `group_size` images that are sampled for each prompt of `data.prompts` and
    scored by `rewards.models`, which need no gradient. `self_play` (SPIN, arXiv 2402.10210): a real image of
    `data.images`, preferred, and an image that is sampled for its caption."""
    sampler: Literal["policy", "reference"] | None = None
    """Weights that sample images: those of the policy or of `reference`. Unset is `policy`; with files nothing is
    sampled."""
    group_size: int | None = Field(default=None, ge=2)
    """Images per prompt with `source: online`, at least 2; unset is 4."""
    images_per_pass: int | None = Field(default=None, ge=1)
    """Images of one prompt that are sampled and decoded at once with `source: online`, a divisor of `group_size`; unset
    takes the whole group. It changes the memory of rollouts alone: the two images of a pair are always in one call."""
    select: Selection = "best_worst"
    """Choice of two images of a prompt with `source: online`. `best_worst`: those with the highest and the lowest
    weighted sum of the rewards; `vote` (BalancedDPO, arXiv 2503.12575): each reward votes for one image of every two,
    whatever its scale or weight; `dominance` (PSO, arXiv 2410.03190): the largest difference of the sums of two images
    of which no reward prefers the other one. A prompt without two such images has the weight 0."""
    min_gap: float = Field(default=0.0, ge=0)
    """Least difference of the weighted sums that makes a pair with `source: online`, at least 0; not with `vote`."""
    temperature: float | None = Field(default=None, gt=0)
    """Scale T of the difference d of the weighted sums, above 0: with `source: online`, an image is preferred with the
    probability `1 / (1 + exp(-d / T))`, and the confidence of the pair is `tanh(d / (2 T))`. Unset has the
    confidence 1; not with `vote`."""
    rank: Literal["score", "win_rate"] = "score"
    """`win_rate` replaces the scores of rewards that compare images in pairs (a `judge` with `comparison`) by the mean
    of their preferences over all pairs of the group, and other scores by the share of images that they exceed; with
    several rewards only for `vote` and `dominance`. `min_gap` and `temperature` are then differences of win rates."""

    @property
    def samples_images(self) -> bool:
        """True if images are sampled in the update."""
        return self.source in ("online", "self_play")

    @property
    def images_per_prompt(self) -> int:
        """Rows of a prompt in a micro-batch: sampled images, or one."""
        return (self.group_size or GROUP_SIZE) if self.source == "online" else 1

    @property
    def rollout_parts(self) -> int:
        """Parts of a group that are sampled one after another."""
        return self.images_per_prompt // (self.images_per_pass or self.images_per_prompt)

    @property
    def compares_images(self) -> bool:
        """True with win rates."""
        return self.rank == "win_rate"

    @property
    def judged(self) -> Judged | None:
        """Kind of the rows of `data.pairs`; None if the images are sampled."""
        return None if self.source in ("online", "self_play") else self.source

    @property
    def samples_for_images(self) -> bool:
        """True with self-play."""
        return self.source == "self_play"

    def check_comparisons(self, names: Sequence[str], count: int) -> None:
        """Check that win rates are not summed with those of other rewards.

        Args:
            names: Trained rewards that compare pairs, at least one.
            count: Number of trained rewards.

        Raises:
            ValueError: If they are.
        """
        if self.compares_images and count > 1 and self.select == "best_worst":
            raise ValueError(
                f"expected select=vote or dominance with rank=win_rate and {count} rewards, got best_worst; a sum of"
                f" win rates has no meaning ({', '.join(names)} compares pairs): change select, or keep one reward"
            )

    def check_images(self, images: str | None, image_ratio: float) -> None:
        """Check that self-play has a real image for every sample, and that other sources have none."""
        if self.source != "self_play":
            return
        if not images:
            raise ValueError(
                "expected data.images with algorithm.source=self_play, got none; real images are preferred to sampled"
                " ones, so name a folder of images with captions, or small_world:realistic"
            )
        if image_ratio < 1:
            raise ValueError(
                f"expected data.image_ratio=1 with algorithm.source=self_play, got {image_ratio:g}; every sampled image"
                " is compared with a real one, so remove it"
            )

    @model_validator(mode="after")
    def _check_sampled(self) -> Self:
        defaults = SampledPairsSection.model_fields
        own = ("group_size", "images_per_pass", "select", "min_gap", "temperature", "rank")
        needed = {"sampler": ("online", "self_play"), **dict.fromkeys(own, ("online",))}
        for name, sources in needed.items():
            value = getattr(self, name)
            if value != defaults[name].default and self.source not in sources:
                raise ValueError(
                    f"expected source {' or '.join(sources)} with {name}, got {self.source}; remove {name}={value}, or"
                    f" set source to {sources[0]}"
                )
        return self

    @model_validator(mode="after")
    def _check_images_per_pass(self) -> Self:
        check_images_per_pass(self.images_per_prompt, self.images_per_pass)
        return self

    @model_validator(mode="after")
    def _check_selection(self) -> Self:
        check_vote(self.select, {"min_gap": self.min_gap, "temperature": self.temperature})
        return self

"""Interfaces of rewards and scorers, their results and their errors."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from srpo_ray.errors import RunFailedError
from srpo_ray.rewards.query import Pairs, TextQuery

PROMPTS_IN_MESSAGE = 3


class Reward(Protocol):
    """Frozen model that scores images against text queries; the same object works in process and in a pool.

    A custom class needs these three attributes and one method. An optional attribute `fit` (`crop`, `pad` or `squash`)
    selects the resize to a square; the default is `crop`. `score` is called from one thread at a time. It must be
    stateless between calls and score each image independently, so that the gradient of the batch's sum contains the
    gradient of every single score. An optional method `compare`, see `PairwiseReward`, compares images in pairs.
    """

    name: str
    """Name, unique in a run; used in metrics and messages."""
    image_size: int
    """Side in pixels of the square images that `score` takes."""
    image_gradient: bool
    """True if `score` is differentiable in the images."""

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        """Score each image against its own query; higher is better.

        Args:
            images: `[B, 3, image_size, image_size]` float32, in [0, 1] except for the overshoot of a bicubic resize,
                see `preprocess.frame`; may be on another device.
            queries: B text queries.

        Returns:
            `[B]` float32, finite, on any device.
        """
        ...


class PairwiseReward(Reward, Protocol):
    """Reward that also compares two images at once; the pairs of any other reward are compared by their scores."""

    def compare(self, first: Tensor, second: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        """Compare two images for each query; swapped images must give one minus the result.

        Args:
            first: `[N, 3, image_size, image_size]`, as for `score`.
            second: The other image of each pair.
            queries: N text queries.

        Returns:
            Probability that the first image is better, `[N]` float32 in [0, 1]; 1/2 is a tie.
        """
        ...


class RewardError(RunFailedError):
    """Missing or invalid score. It stops the run, because training must not continue on a substitute.

    Args:
        reward: Name of the reward model, or names of all models of the failed call.
        prompts: Affected queries, as text; the first is the first bad sample.
        replica: Name of the replica of the pool, or `in process`.
        reason: Cause of the failure.
    """

    def __init__(self, reward: str, prompts: Sequence[str], replica: str, reason: str) -> None:
        # The base class gets all arguments, because unpickling calls the class with them.
        super().__init__(reward, tuple(prompts), replica, reason)
        self.reward = reward
        self.prompts = tuple(prompts)
        self.replica = replica
        self.reason = reason

    def __str__(self) -> str:
        shown = ", ".join(self.prompts[:PROMPTS_IN_MESSAGE])
        more = len(self.prompts) - PROMPTS_IN_MESSAGE
        prompts = f" for {shown}" + (f" and {more} more" if more > 0 else "") if shown else ""
        return f"reward {self.reward!r} failed on {self.replica!r}{prompts}: {self.reason}"


class LostRewardError(RewardError):
    """End of the process that a reward has for its Python environment. Another replica can repeat the call."""


@dataclass(frozen=True)
class Scores:
    """Result of one `submit`."""

    total: Tensor
    """Weighted sum over the training rewards, `[B]` float32, connected to the submitted images by autograd."""
    raw: dict[str, Tensor]
    """Unweighted score per reward, `[B]` float32, detached."""
    weights: dict[str, float] = field(default_factory=dict)
    """Factor of each reward in the sum."""
    wins: dict[str, Tensor] = field(default_factory=dict)
    """Win rate of each image within the images of its prompt, per reward that compares pairs, `[B]`; empty if no
    images were compared."""


class PendingScore(Protocol):
    """Scores that may still be in computation."""

    def result(self) -> Scores:
        """Wait for the scores; a second call returns the same object.

        Raises:
            RewardError: If a reward failed, was not finite, or could not be reached in the allowed attempts.
        """
        ...


class PendingComparison(Protocol):
    """Comparisons that may still be in computation."""

    def result(self) -> dict[str, Tensor]:
        """Wait for the comparisons; per reward `[N]`, the probability that the first image of each pair is better.

        Raises:
            RewardError: As `PendingScore.result`.
        """
        ...


class RewardScorer(Protocol):
    """Interface between algorithms and rewards. `LocalRewards` and the pool's `RewardClient` implement it."""

    @property
    def pairwise(self) -> frozenset[str]:
        """Names of the models that compare two images at once, trained and held-out."""
        ...

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the models of the training reward."""
        ...

    def submit(self, images: Tensor, queries: Sequence[TextQuery]) -> PendingScore:
        """Request the training reward, and its gradient if `images` requires one; return at once.

        Args:
            images: `[B, 3, H, W]` in [0, 1], any size, device and floating type.
            queries: B text queries.

        Raises:
            ValueError: If the batch is malformed, or a gradient is requested from a reward without one.
        """
        ...

    def measure(
        self, images: Tensor, queries: Sequence[TextQuery], names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Compute scores without gradient, also by held-out evaluators.

        Args:
            images: `[B, 3, H, W]` in [0, 1].
            queries: B text queries.
            names: Models that score; None selects all.

        Returns:
            Per model `[B]` float32, unweighted.

        Raises:
            ValueError: If the batch is malformed or a name is unknown.
            RewardError: As `PendingScore.result`.
        """
        ...

    def compare(
        self, images: Tensor, queries: Sequence[TextQuery], pairs: Pairs, names: Sequence[str] | None = None
    ) -> PendingComparison:
        """Request comparisons of pairs of images, without gradient and with the preprocessing of `submit`.

        A model that does not compare pairs compares the scores of the images: the probability is 1, 0, or 1/2 for
        equal scores.

        Args:
            images: `[B, 3, H, W]` in [0, 1].
            queries: B text queries.
            pairs: Two different images of each of N pairs, as indices of images with the same query.
            names: Models that compare; None selects those of the training reward.

        Raises:
            ValueError: If the batch or a pair is malformed, or a name is unknown.
        """
        ...

    def take_statistics(self) -> dict[str, float]:
        """Return the metrics since the last call of this function; see `ScoringStatistics`."""
        ...


def check_batch(images: Tensor, queries: Sequence[TextQuery]) -> None:
    """Raise ValueError unless the batch has at least one colour image and one query per image."""
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] == 0 or images.shape[0] != len(queries):
        raise ValueError(
            f"expected images [B, 3, H, W] with B >= 1 and one query each, received {tuple(images.shape)} and "
            f"{len(queries)} queries; a batch cannot be empty"
        )


def check_pairs(pairs: Pairs, queries: Sequence[TextQuery]) -> None:
    """Raise ValueError unless there are pairs, each of two different images of the batch with the same query."""
    size = len(queries)
    wrong = [(i, j) for i, j in pairs if not (0 <= i < size and 0 <= j < size and i != j and queries[i] == queries[j])]
    if wrong or not pairs:
        raise ValueError(
            f"expected pairs of two different images with the same query among {size}, received"
            f" {wrong[0] if wrong else 'none'}; compare only images of the same prompt"
        )


def check_names(wanted: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError if a requested reward model does not exist or none is requested."""
    unknown = sorted(set(wanted) - set(known))
    if unknown or not wanted:
        raise ValueError(
            f"expected names of reward models among {sorted(known)}, received {sorted(wanted)}; "
            f"remove {unknown} or add such models to `rewards.models`"
            if unknown
            else f"expected at least one name among {sorted(known)}, received none"
        )


def check_gradient(image_gradient: dict[str, bool]) -> None:
    """Raise ValueError if a reward whose gradient is needed for training has none."""
    without = sorted(name for name, has_gradient in image_gradient.items() if not has_gradient)
    if without:
        raise ValueError(
            f"expected differentiable rewards for images that require a gradient, received {without} with "
            "image_gradient=False; submit detached images, or train with an algorithm that needs no reward gradient"
        )

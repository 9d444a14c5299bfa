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


@dataclass(frozen=True)
class ScoreRequest:
    """Texts that images are scored against, and the models that score them."""

    queries: Sequence[TextQuery]
    """B text queries, one for each image."""
    names: Sequence[str] | None = None
    """Models that score; None selects all."""


class PendingScore(Protocol):
    """Scores that may still be in computation."""

    def result(self) -> Scores:
        """Wait for the scores; a second call returns the same object.

        Raises:
            RewardError: If a reward failed, was not finite, or could not be reached in the allowed attempts.
        """
        ...


class PendingValues(Protocol):
    """Scores or comparisons without gradient that may still be in computation."""

    def result(self) -> dict[str, Tensor]:
        """Wait for the values; a second call returns the same object.

        Returns:
            Per model the scores of the images `[B]` float32, unweighted, or the comparisons of pairs `[N]` float32.

        Raises:
            RewardError: As `PendingScore.result`.
        """
        ...


class RewardScorer(Protocol):
    """Interface between algorithms and rewards. `LocalRewards` and the pool's `RewardClient` implement it."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models, trained and held-out."""
        ...

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

    def request(self, images: Tensor, requests: Sequence[ScoreRequest]) -> Sequence[PendingValues]:
        """Request scores without gradient, also by held-out evaluators; return at once.

        Args:
            images: `[B, 3, H, W]` in [0, 1]. A pool receives them once for all requests.
            requests: Texts and models, each for all B images.

        Returns:
            Values of each request: per model `[B]`.

        Raises:
            ValueError: If the batch is malformed or a name is unknown.
        """
        ...

    def measure(
        self, images: Tensor, queries: Sequence[TextQuery], names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Make one `request`, and wait for its values.

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
    ) -> PendingValues:
        """Request comparisons of pairs of images, without gradient and with the preprocessing of `submit`.

        A value is the probability that the first image of a pair is better. A model that does not compare pairs
        compares the scores of the images: the probability is 1, 0, or 1/2 for equal scores.

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

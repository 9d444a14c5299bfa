"""What a reward is, what a scorer gives back, and how either of them fails."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from srpo_ray.errors import RunFailedError
from srpo_ray.rewards.query import TextQuery

PROMPTS_IN_MESSAGE = 3


class Reward(Protocol):
    """A frozen model that scores images against text queries; the same object works in process and in a pool.

    A class of your own needs these three attributes and one method; an attribute `fit` (`crop`, `pad` or `squash`)
    says how images become squares, `crop` without it. It is called from one thread at a time, keeps no state from
    call to call that changes a score, and scores each image by itself, so that the gradient of the batch's sum
    holds the gradient of every single score.
    """

    name: str
    """Unique in a run; used in metrics and messages."""
    image_size: int
    """Side in pixels of the square images that `score` wants."""
    image_gradient: bool
    """Whether `score` is differentiable in the images."""

    def score(self, images: Tensor, queries: Sequence[TextQuery]) -> Tensor:
        """Score each image against its own query; higher is better.

        Args:
            images: `[B, 3, image_size, image_size]` float32, in [0, 1] but for the overshoot of a bicubic resize, see
                `preprocess.frame`; may live on another device.
            queries: B text queries.

        Returns:
            `[B]` float32, finite, on any device.
        """
        ...


class RewardError(RunFailedError):
    """A score that could not be had; it stops the run, since a made-up score would be trained on.

    Args:
        reward: Name of the reward model, or of all models that the failed call asked for.
        prompts: The queries concerned, as text; the first is the first bad sample.
        replica: Where it ran: a replica of the pool, or `in process`.
        reason: What went wrong.
    """

    def __init__(self, reward: str, prompts: Sequence[str], replica: str, reason: str) -> None:
        # All arguments go to the base class, because unpickling calls the class with them.
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


@dataclass(frozen=True)
class Scores:
    """The answer to one `submit`."""

    total: Tensor
    """`[B]` float32: the weighted sum over the training rewards, connected to the submitted images by autograd."""
    raw: dict[str, Tensor]
    """Per reward `[B]` float32: the unweighted score, detached."""


class PendingScore(Protocol):
    """Scores that may still be on their way."""

    def result(self) -> Scores:
        """Wait for the scores; a second call gives the same object.

        Raises:
            RewardError: If a reward failed, was not finite, or could not be reached in the allowed attempts.
        """
        ...


class RewardScorer(Protocol):
    """All that an algorithm knows of rewards. `LocalRewards` and the pool's `RewardClient` both are one."""

    def submit(self, images: Tensor, queries: Sequence[TextQuery]) -> PendingScore:
        """Ask for the training reward, and for its gradient if `images` carries one; returns at once.

        Args:
            images: `[B, 3, H, W]` in [0, 1], any size, device and floating type.
            queries: B text queries.

        Raises:
            ValueError: If the batch is malformed, or a gradient is wanted from a reward without one.
        """
        ...

    def measure(
        self, images: Tensor, queries: Sequence[TextQuery], names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Scores only, without gradient; held-out models too.

        Args:
            images: `[B, 3, H, W]` in [0, 1].
            queries: B text queries.
            names: Models to ask; None asks all.

        Returns:
            Per model `[B]` float32, unweighted.

        Raises:
            ValueError: If the batch is malformed or a name is unknown.
            RewardError: As `PendingScore.result`.
        """
        ...

    def take_statistics(self) -> dict[str, float]:
        """Metrics since the last call of this function; see `ScoringStatistics`."""
        ...


def check_batch(images: Tensor, queries: Sequence[TextQuery]) -> None:
    """Raise ValueError unless there is one query for each of at least one colour image."""
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] == 0 or images.shape[0] != len(queries):
        raise ValueError(
            f"expected images [B, 3, H, W] with B >= 1 and one query each, received {tuple(images.shape)} and "
            f"{len(queries)} queries; a batch cannot be empty"
        )


def check_names(wanted: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError if a wanted reward model does not exist or none is wanted."""
    unknown = sorted(set(wanted) - set(known))
    if unknown or not wanted:
        raise ValueError(
            f"expected names of reward models among {sorted(known)}, received {sorted(wanted)}; "
            f"remove {unknown} or add such models to `rewards.models`"
            if unknown
            else f"expected at least one name among {sorted(known)}, received none"
        )


def check_gradient(image_gradient: dict[str, bool]) -> None:
    """Raise ValueError if a reward that is trained on through its gradient has none."""
    without = sorted(name for name, has_gradient in image_gradient.items() if not has_gradient)
    if without:
        raise ValueError(
            f"expected differentiable rewards for images that carry a gradient, received {without} with "
            "image_gradient=False; submit detached images, or train with an algorithm that needs no reward gradient"
        )

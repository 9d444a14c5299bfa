"""Context of one call of a reward: names the reward, the prompts and the replica in every error."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from srpo_ray.rewards.base import RewardError
from srpo_ray.rewards.query import TextQuery


@dataclass(frozen=True)
class RewardCall:
    """Context manager that converts every error to a `RewardError` with the reward, the prompts and the replica."""

    reward: str
    queries: Sequence[TextQuery]
    replica: str

    def __enter__(self) -> "RewardCall":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Interrupts and exits pass through, and so does a RewardError.
        if isinstance(error, Exception) and not isinstance(error, RewardError):
            raise self.failure(f"{type(error).__name__}: {error}") from error

    def failure(self, reason: str) -> RewardError:
        """Build the error of the whole batch."""
        return RewardError(self.reward, [str(query) for query in self.queries], self.replica, reason)

    def require_score(self, score: Tensor) -> None:
        """Raise unless `score` has one finite number per query."""
        if score.shape != (len(self.queries),):
            raise self.failure(f"expected scores of shape [{len(self.queries)}], received {list(score.shape)}")
        self.require_finite("score", score)

    def require_probability(self, wins: Tensor) -> None:
        """Raise unless every number of `wins` is in [0, 1]."""
        wrong = ((wins < 0) | (wins > 1)).nonzero()
        if len(wrong):
            first = int(wrong[0])
            raise self.failure(f"the comparison of pair {first} is {wins[first].item():g}, expected it in [0, 1]")

    def require_finite(self, what: str, tensor: Tensor) -> None:
        """Raise an error that names the first bad sample, unless every number of `tensor` is finite."""
        numbers = tensor.detach().reshape(len(self.queries), -1)
        # A finite sum implies finite terms, at a fiftieth of the cost; the converse does not hold.
        if torch.isfinite(numbers.sum()):
            return
        bad = (~torch.isfinite(numbers).all(dim=1)).nonzero()
        if len(bad):
            first = int(bad[0])
            raise RewardError(
                self.reward,
                [str(self.queries[first])],
                self.replica,
                f"the {what} of sample {first} is NaN or infinite ({len(bad)} of {len(self.queries)} are)",
            )

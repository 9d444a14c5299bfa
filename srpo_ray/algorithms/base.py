"""What every algorithm takes and gives, so that one loop trains them all."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch import Tensor

from srpo_ray.config.algorithms.base import AlgorithmSection
from srpo_ray.config.algorithms.control_words import ControlWords
from srpo_ray.config.model import RolloutConfig
from srpo_ray.flow import Draws, SigmaGrid, numeric_grid
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.rewards.base import RewardScorer

if TYPE_CHECKING:
    from srpo_ray.models.policy import FlowPolicy

ConfigT = TypeVar("ConfigT", bound=AlgorithmSection)


@dataclass(frozen=True)
class Batch:
    """The prompts of one forward pass on one worker."""

    prompts: tuple[str, ...]
    """Plain prompts, B of them, for example `("a red circle on a gray background", ...)`."""
    conditioning: Conditioning
    """Text features of the same prompts."""
    draws: Draws
    """Random draws of the same B samples."""
    real: Mapping[int, Tensor] = field(default_factory=dict)
    """Row of the batch -> clean tokens `[N, 64]` that take the place of its rollout: of a real image, an image of the
    base model, or a rollout of an earlier update."""


@dataclass(frozen=True)
class LossOutput:
    """One part of an update's loss."""

    loss: Tensor
    """Scalar with gradient: this part's share of the update's loss, as a mean over the batch."""
    metrics: dict[str, Tensor]
    """Metric name -> per-sample values `[B]`, detached; the loop averages them over batches and workers."""


Loss = Callable[[], LossOutput]
"""A loss whose forward pass is done and whose rewards are on their way; the call waits for them."""


class Algorithm(ABC, Generic[ConfigT]):
    """One way to turn rewards into losses."""

    def __init__(
        self,
        config: ConfigT,
        rollout: RolloutConfig,
        policy: "FlowPolicy",
        rewards: RewardScorer,
        grid: SigmaGrid = numeric_grid,
        words: ControlWords | None = None,
    ) -> None:
        """Connect an algorithm with the run's parts.

        Args:
            config: Section `algorithm`.
            rollout: Section `rollout`.
            policy: The model that is tuned.
            rewards: Scorer of images.
            grid: Grids of the run's model; by default those of shifts that are numbers.
            words: Control words of the queries; None for an algorithm without.
        """
        self.config = config
        self.rollout = rollout
        self.policy = policy
        self.rewards = rewards
        self.words = words
        self.grid = grid
        self.sigmas = grid(rollout.num_steps, rollout.shift)
        """Grid of the sampler `[num_steps + 1]`, float64, from 1 to 0."""

    @property
    def losses_in_flight(self) -> int:
        """Most losses whose forward passes are done before a backward over their sum, as the config states.

        Higher values overlap reward scoring with forward passes; each loss keeps its activations until the backward.
        """
        return self.config.calls(self.rollout.num_steps).in_flight

    @abstractmethod
    def collect(self, batch: Batch) -> Any:
        """Sample what the losses need, without gradient."""

    @abstractmethod
    def losses(self, batch: Batch, collected: Any) -> Iterator[Loss]:
        """Run the forward passes one by one, submitting each to the rewards before the next.

        The loop back-propagates whenever `losses_in_flight` of them are under way. Their number, and the number
        of transformer calls, is the same for every batch on every worker, or ZeRO's collectives hang: draws that
        change it are those of `Draws.of_update`.
        """

    def noise(self, batch: Batch) -> Tensor:
        """The noise `[B, N, 64]` that the batch's rollouts start from, each from its own."""
        return self.policy.noise(batch.draws.generators("rollout"))

"""What every algorithm takes and gives, so that one loop trains them all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from srpo_ray.config.algorithms.base import AlgorithmSection
from srpo_ray.config.model import RolloutConfig
from srpo_ray.flow import SigmaGrid, generator, numeric_grid
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.models.text import Conditioning
from srpo_ray.rewards.base import RewardScorer

ConfigT = TypeVar("ConfigT", bound=AlgorithmSection)


@dataclass(frozen=True)
class Batch:
    """The prompts of one forward pass on one worker."""

    step: int
    """Update that the batch belongs to, from 0."""
    samples: tuple[int, ...]
    """Index of each sample in the update's global batch: the address of its random draws."""
    prompts: tuple[str, ...]
    """Plain prompts, B of them, for example `("a red circle on a gray background", ...)`."""
    conditioning: Conditioning
    """Text features of the same prompts."""
    worker: int = 0
    """Rank of the worker: the address of draws that all its samples share."""
    real: Mapping[int, Tensor] = field(default_factory=dict)
    """Row of the batch -> clean tokens `[N, 64]` of the real picture that takes the place of its rollout."""


@dataclass(frozen=True)
class LossOutput:
    """One part of an update's loss."""

    loss: Tensor
    """Scalar with gradient: this part's share of the update's loss, as a mean over the batch."""
    metrics: dict[str, Tensor]
    """Metric name -> per-sample values `[B]`, detached; the loop averages them over batches and workers."""


class PendingLoss(Protocol):
    """A loss whose forward pass is done and whose rewards are on their way."""

    def result(self) -> LossOutput:
        """Wait for the rewards and give the loss."""
        ...


class Algorithm(Protocol):
    """One way to turn rewards into losses."""

    losses_in_flight: int
    """Most losses whose forward passes are done before a backward over their sum.

    More of them hide more of the rewards' time behind forward passes; each keeps its activations until then.
    """

    def collect(self, batch: Batch) -> Any:
        """Sample what the losses need, without gradient."""
        ...

    def losses(self, batch: Batch, collected: Any) -> Iterator[PendingLoss]:
        """Run the forward passes one by one, submitting each to the rewards before the next.

        The loop back-propagates whenever `losses_in_flight` of them are under way. Their number, and the number
        of transformer calls, is the same for every batch on every worker, or ZeRO's collectives hang: whatever
        changes it is drawn from the seed and `batch.step` alone.
        """
        ...


class PlainAlgorithm(Generic[ConfigT]):
    """What the algorithms share that score prompts as they are, from noise of each sample's own."""

    losses_in_flight = 1

    def __init__(
        self,
        config: ConfigT,
        rollout: RolloutConfig,
        policy: FlowPolicy,
        rewards: RewardScorer,
        seed: int,
        grid: SigmaGrid = numeric_grid,
    ) -> None:
        """Connect an algorithm with the run's parts.

        Args:
            config: Section `algorithm`.
            rollout: Section `rollout`.
            policy: The model that is tuned.
            rewards: What scores images.
            seed: Seed of the run.
            grid: Grids of the run's model; by default those of shifts that are numbers.
        """
        self.config = config
        self.rollout = rollout
        self.policy = policy
        self.rewards = rewards
        self.seed = seed
        self.sigmas = grid(rollout.num_steps, rollout.shift)
        """Grid of the sampler `[num_steps + 1]`, float64, from 1 to 0."""

    def noise(self, batch: Batch) -> Tensor:
        """The noise `[B, N, 64]` that the batch's rollouts start from."""
        return self.policy.noise([generator(self.seed, "rollout", batch.step, sample) for sample in batch.samples])

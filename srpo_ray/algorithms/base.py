"""What every algorithm takes and gives, so that one loop trains them all."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch import Tensor

from srpo_ray.config.algorithms.base import AlgorithmSection, Calls, Role
from srpo_ray.config.algorithms.control_words import ControlWords
from srpo_ray.config.model import RolloutConfig
from srpo_ray.flow import Draws, DrawScope, SigmaGrid, numeric_grid
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.rewards.base import RewardScorer

if TYPE_CHECKING:
    from srpo_ray.models.policy import FlowPolicy

ConfigT = TypeVar("ConfigT", bound=AlgorithmSection)


@dataclass(frozen=True)
class Batch:
    """The images of one forward pass on one worker: a row for each, one or several per prompt."""

    prompts: tuple[str, ...]
    """Plain prompt of each of B rows, for example `("a red circle on a gray background", ...)`."""
    conditioning: Conditioning
    """Text features of the same prompts."""
    draws: Draws
    """Random draws of the same B rows, and which sample and image of the update each row is."""
    images: Tensor | None = None
    """Clean tokens `[B, K, N, 64]` of K images for each row: one in place of a rollout (a real image, an image of the
    base model, or a rollout of an earlier update), two to compare, more to rank. Zeros in rows that are not among
    `image_rows`; None if there are none."""
    labels: Tensor | None = None
    """Labels of the images `[B, K]`, higher is better; None where they have none."""
    image_rows: tuple[int, ...] = ()
    """Rows that have images; the others are rolled out."""
    other_conditioning: Conditioning | None = None
    """Text features of another caption of the same images, B of them; None where they have one."""


@dataclass(frozen=True)
class LossOutput:
    """One part of an update's loss."""

    loss: Tensor
    """Scalar with gradient: this part's share of the update's loss, as a mean over the batch."""
    metrics: dict[str, Tensor]
    """Metric name -> per-sample values `[B]`, detached; the loop averages them over batches and workers."""


Loss = Callable[[], LossOutput]
"""A loss whose forward pass is done and whose rewards are on their way; the call waits for them."""

Gather = Callable[[Any], list[Any]]
"""Every worker's value, in the order of their ranks, on every worker; all must call."""


@dataclass(frozen=True)
class Phase:
    """A part of an update without gradient, made for all micro-batches under one role before the next phase begins."""

    role: Role
    """Weights that the policy has meanwhile."""
    run: Callable[[Batch, Any], Any]
    """From a micro-batch, and what the phases before collected for it (None at first), to what is collected now."""


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
        self.state: dict[str, Tensor] = {}
        """Tensors that go from update to update, equal on all workers; checkpoints keep them. Most have none."""

    @classmethod
    def check_grid(cls, config: ConfigT, grid: SigmaGrid) -> None:
        """Refuse settings that do not fit the sigmas of the run's model.

        Args:
            config: Section `algorithm`.
            grid: Grids of the run's model.

        Raises:
            ValueError: If they do not.
        """

    @cached_property
    def calls(self) -> Calls:
        """Model calls of a micro-batch, as the config states them."""
        return self.config.calls(self.rollout.num_steps)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Parts of an update without gradient, in their order."""
        return (Phase("policy", lambda batch, _: self.collect(batch)),)

    @abstractmethod
    def collect(self, batch: Batch) -> Any:
        """Sample what the losses need, without gradient."""

    def settle(self, rounds: Sequence[tuple[Batch, Any]], gather: Gather) -> list[Any]:
        """Complete what was collected with what only the whole update shows, such as advantages.

        Args:
            rounds: This worker's micro-batches and what was collected for each. Where the update's micro-batches do not
                go into the number of workers, one may be on two workers.
            gather: Brings together what all workers have; all must call it as often.

        Returns:
            What `losses` takes for each of the micro-batches. It must not depend on the number of workers: add up in
            float64 and in the order of the samples.
        """
        return [collected for _, collected in rounds]

    @abstractmethod
    def losses(self, batch: Batch, collected: Any, part: int = 0) -> Iterator[Loss]:
        """Run the forward passes one by one, submitting each to the rewards before the next.

        The loop back-propagates whenever `calls.in_flight` of them are under way. Their number, and the number
        of transformer calls, is the same for every batch on every worker, or ZeRO's collectives hang: draws that
        change it are those of the update, `Draws.integer` and `Draws.of_update`.

        Args:
            batch: The prompts.
            collected: What was collected and settled for them.
            part: Optimizer step of the update that the losses are for, from 0 to `calls.optimizer_steps - 1`.
        """

    def old_kept(self, update: int) -> float:
        """Share of the weights of role `old` that stays after an update; 0 copies the policy's, 1 leaves them.

        Args:
            update: The update that was made, from 0.
        """
        return 0.0

    def noise(self, batch: Batch, purpose: str = "rollout", *address: int, scope: DrawScope = "per_sample") -> Tensor:
        """Standard normal tokens `[B, N, 64]`; by default those that the batch's rollouts start from.

        Args:
            batch: The prompts.
            purpose: What is drawn, for example `"renoise"`.
            address: Which draw of a row it is, where there are several.
            scope: Rows that share a noise.
        """
        return self.policy.noise(batch.draws.generators(purpose, *address, scope=scope))

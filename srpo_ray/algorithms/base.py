"""Interface of all algorithms: batches in, losses out; one training loop serves them all."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch import Tensor

from srpo_ray.algorithms.queries import Side, batch_queries
from srpo_ray.config.algorithms.base import AlgorithmSection, Calls, Role
from srpo_ray.config.algorithms.control_words import ControlWords
from srpo_ray.config.algorithms.query import QuerySection
from srpo_ray.config.model import RolloutConfig
from srpo_ray.config.size import ImageSize
from srpo_ray.flow import Draws, DrawScope, SigmaGrid, numeric_grid
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.rewards.base import RewardScorer
from srpo_ray.rewards.query import TextQuery

if TYPE_CHECKING:
    from srpo_ray.models.policy import FlowPolicy

ConfigT = TypeVar("ConfigT", bound=AlgorithmSection)
QueryT = TypeVar("QueryT", bound=QuerySection)


@dataclass(frozen=True)
class Batch:
    """Images of one forward pass on one worker: one row per image, one or several images per prompt."""

    prompts: tuple[str, ...]
    """Prompts of the B rows, without control words, for example `("a red circle on a gray background", ...)`."""
    conditioning: Conditioning
    """Text features of the prompts, or of other texts that condition the model in their place."""
    draws: Draws
    """Random draws of the B rows, with the sample and the image of the update that each row is."""
    images: Tensor | None = None
    """Clean tokens `[B, K, N, 64]` of K images per row: one replaces a rollout (a real image, an image of the base
    model, or a rollout of an earlier update), two are compared, more are ranked. Rows outside `image_rows` are zero.
    None if no row has images."""
    labels: Tensor | None = None
    """Labels of the images `[B, K]`, higher is better; None without labels."""
    image_rows: tuple[int, ...] = ()
    """Rows with images; the policy samples the other rows."""
    other_conditioning: Conditioning | None = None
    """Text features of another caption of the same images, B of them; None if images have a single caption."""
    size: ImageSize | None = None
    """Size of the images of all rows; None in a run with one size."""
    words: tuple[ControlWords, ...] | None = None
    """Control words of the rows; None if all rows have those of the run."""
    keys: tuple[str, ...] | None = None
    """Keys that tell rows of one prompt with other words or conditioning apart; None if prompts are enough."""


@dataclass(frozen=True)
class LossOutput:
    """Part of an update's loss."""

    loss: Tensor
    """Scalar with gradient: this part's share of the update's loss, averaged over the batch."""
    metrics: dict[str, Tensor]
    """Metric name -> per-sample values `[B]`, detached; the trainer averages them over batches and workers."""


Loss = Callable[[], LossOutput]
"""Loss with a finished forward pass and pending rewards; the call waits for the rewards."""

Gather = Callable[[Any], list[Any]]
"""Collective that returns every worker's value, in the order of ranks, on every worker. All workers must call."""


@dataclass(frozen=True)
class Phase:
    """Part of an update without gradient. It runs for all micro-batches with the weights of one role."""

    role: Role
    """Weights of the policy during the phase."""
    run: Callable[[Batch, Any], Any]
    """Function from a micro-batch and the result of the previous phase (None in the first) to the phase's result. With
    `rollout.batch_size` it gets the rows of several micro-batches; the last phase's result for them must return the
    value of some rows for a slice of them, as a tensor does."""


class Algorithm(ABC, Generic[ConfigT]):
    """Base class of algorithms: losses from rewards."""

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
            policy: Model that is trained.
            rewards: Scorer of images.
            grid: Sigma grids of the run's model at the present size of the policy's images; the default supports
                numeric shifts.
            words: Control words of rows without words of their own; None for plain queries.
        """
        self.config = config
        self.rollout = rollout
        self.policy = policy
        self.rewards = rewards
        self.words = words
        self.grid = grid
        self.state: dict[str, Tensor] = {}
        """State across updates, equal on all workers; checkpoints store it. Most algorithms have none."""

    @classmethod
    def check_grid(cls, config: ConfigT, grid: SigmaGrid) -> None:
        """Check settings against the sigmas of the run's model.

        Args:
            config: Section `algorithm`.
            grid: Sigma grids of the run's model.

        Raises:
            ValueError: If they do not fit.
        """

    @classmethod
    def check_points(cls, config: ConfigT, rollout: RolloutConfig, grid: SigmaGrid) -> None:
        """Check settings of points against the sampler's grid.

        Args:
            config: Section `algorithm`.
            rollout: Section `rollout`.
            grid: Sigma grids of the run's model.

        Raises:
            ValueError: If they do not fit.
        """

    @property
    def sigmas(self) -> Tensor:
        """Sigma grid of the sampler `[num_steps + 1]`, float64, from 1 to 0, at the present size of the images."""
        return self.grid(self.rollout.num_steps, self.rollout.shift)

    @cached_property
    def calls(self) -> Calls:
        """Model calls of a micro-batch, from the config."""
        return self.config.total_calls(self.rollout.num_steps)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Phases of an update without gradient, in order."""
        return (Phase("policy", lambda batch, _: self.collect(batch)),)

    @abstractmethod
    def collect(self, batch: Batch) -> Any:
        """Collect the inputs of the losses, without gradient; a result of one phase, see `Phase.run`."""

    def settle(self, rounds: Sequence[tuple[Batch, Any]], gather: Gather) -> list[Any]:
        """Complete the collected values with values of the whole update, such as advantages.

        Args:
            rounds: This worker's micro-batches with the collected value of each. If the number of micro-batches is not
                divisible by the number of workers, two workers may have the same one.
            gather: Collective that gathers a value of all workers; all must call it equally often.

        Returns:
            Argument `collected` of `losses` for each micro-batch. It must not depend on the number of workers: sum in
            float64 and in the order of the samples.
        """
        return [collected for _, collected in rounds]

    @abstractmethod
    def losses(self, batch: Batch, collected: Any, part: int = 0) -> Iterator[Loss]:
        """Run the forward passes one by one, and submit each to the rewards before the next.

        The trainer back-propagates whenever `calls.in_flight` losses are pending. The number of losses and of
        transformer calls must be the same for every batch on every worker, or ZeRO's collectives hang. Draws that
        change it must therefore be draws of the update: `Draws.integer` and `Draws.of_update`.

        Args:
            batch: Micro-batch.
            collected: Value of `settle` for the micro-batch.
            part: Index of the optimizer step within the update, from 0 to `calls.optimizer_steps - 1`.
        """

    def reached(self, collected: Any) -> tuple[Tensor, Tensor] | None:
        """Find the tokens that a rollout has reached, for anchors; None if the collected value has none.

        The config class of an algorithm that returns them has `keeps_rollout = True`.

        Args:
            collected: Collected value.

        Returns:
            Tokens `[B, N, C]`, and the sigma of each, `[B]`, 0 for finished images.
        """
        return None

    def old_kept(self, update: int) -> float:
        """Return the weight of role `old` in its interpolation with the policy after an update; 0 copies the policy.

        Args:
            update: Index of the update, from 0.
        """
        return 0.0

    def noise(self, batch: Batch, purpose: str = "rollout", *address: int, scope: DrawScope = "per_sample") -> Tensor:
        """Draw standard normal tokens `[B, N, 64]`; by default the initial noise of the batch's rollouts.

        Args:
            batch: Micro-batch.
            purpose: Purpose of the draw, for example `"renoise"`.
            address: Index of the draw, if a row has several.
            scope: Rows that share a noise.
        """
        return self.policy.noise(batch.draws.generators(purpose, *address, scope=scope))

    def sample(self, noise: Tensor, conditioning: Conditioning, sigmas: Tensor) -> Tensor:
        """Sample without gradient along a grid, with the guidance and the block cache of section `rollout`.

        Args:
            noise: Tokens at the first sigma `[B, N, 64]`.
            conditioning: Text features of B prompts.
            sigmas: Grid, noisiest first.

        Returns:
            Tokens at the last sigma `[B, N, 64]`.
        """
        rollout = self.rollout
        return self.policy.rollout(noise, conditioning, sigmas, rollout.guidance_scale, rollout.cache_threshold)

    def queries(
        self: "Algorithm[QueryT]", batch: Batch, own: Side = "positive", discounts: Sequence[float] | None = None
    ) -> list[TextQuery]:
        """Build the query of each row for the rewards: the form of section `algorithm`, and the row's control words.

        The config class of the algorithm must be a `QuerySection`.

        Args:
            batch: Micro-batch.
            own: Control word that the query rewards; the other one is subtracted.
            discounts: Additional weight of each row's own text, `[B]`; None is 0. A plain query ignores it.
        """
        words = batch.words or (self.words and [self.words] * len(batch.prompts))
        return batch_queries(self.config, words, batch.prompts, batch.draws, own, discounts)

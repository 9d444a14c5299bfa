"""Random steps of a group's images: the states before and after, shared by the images that have them in common."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from srpo_ray.rewards.base import PendingScore, Scores


@dataclass(frozen=True)
class ScoresOfRows:
    """Scores of some images of a larger request."""

    pending: PendingScore
    """Scores of all its images."""
    rows: slice
    """Images among them."""

    def result(self) -> Scores:
        """See `PendingScore.result`."""
        return self._scores

    @cached_property
    def _scores(self) -> Scores:
        whole = self.pending.result()
        raw, wins = ({name: values[self.rows] for name, values in each.items()} for each in (whole.raw, whole.wins))
        return Scores(whole.total[self.rows], raw, whole.weights, wins)


@dataclass(frozen=True)
class KnownScores:
    """Scores of a request that has been answered, without the pixels that the request keeps."""

    scores: Scores

    def result(self) -> Scores:
        """See `PendingScore.result`."""
        return self.scores


@dataclass(frozen=True)
class Move:
    """One random step of S images, which have U states before it and V states after it.

    State u before the step is that of the images `[u * S / U, (u + 1) * S / U)`, and likewise after it.
    """

    step: int
    """Index of the step in the sampler's grid."""
    before: Tensor
    """Tokens before the step, `[U, N, 64]`."""
    after: Tensor
    """Tokens after the step, `[V, N, 64]`, V a multiple of U."""
    log_density: Tensor
    """Log-probability of the step under the model that sampled it, `[V]`."""
    mean: Tensor | None = None
    """Mean of the step under the model that sampled it, `[U, N, 64]`; None where no loss needs it."""
    sharing: int = 1
    """Images of a group that share the state after the step, in this micro-batch or in others."""
    scores: int = 0
    """Index of the step's scores in `Moves.scores`."""

    def of_images(self, rows: slice, images: int) -> "Move":
        """Return the step of some of the S images, which are whole blocks of both states."""

        def cut(states: Tensor) -> Tensor:
            block = images // len(states)
            return states[rows.start // block : rows.stop // block]

        return replace(
            self,
            before=cut(self.before),
            after=cut(self.after),
            log_density=cut(self.log_density),
            mean=None if self.mean is None else cut(self.mean),
        )


@dataclass(frozen=True)
class Moves:
    """Random steps of the S images of a micro-batch."""

    images: int
    """Number S of the images."""
    moves: tuple[Move, ...]
    """The steps, in the order of the sampler."""
    scores: tuple[tuple[PendingScore, ...], ...]
    """Rewards of the finished images: one entry for all steps or one for each, with `[S]` scores for each tail."""
    reference: tuple[Tensor, ...] = ()
    """Mean of each trained step under the initial model, `[U, N, 64]`; empty where no loss needs it."""
    advantages: tuple[Tensor, ...] = ()
    """Advantage of each step, `[V]`; empty before `settle`."""
    weights: tuple[Tensor, ...] = ()
    """Weight of each trained step in the score of its trajectory, `[V]`; empty for losses of single steps."""
    metrics: tuple[dict[str, Tensor], ...] = field(default=())
    """Statistics of the images of each entry of `scores`, `[S]` each; empty before `settle`."""

    def __getitem__(self, rows: slice) -> "Moves":
        """Return the steps of some images, before `settle`. They are those of whole micro-batches."""
        rows = slice(*rows.indices(self.images))

        def cut(means: Tensor) -> Tensor:
            block = self.images // len(means)
            return means[rows.start // block : rows.stop // block]

        return Moves(
            rows.stop - rows.start,
            tuple(move.of_images(rows, self.images) for move in self.moves),
            tuple(tuple(ScoresOfRows(pending, rows) for pending in tails) for tails in self.scores),
            tuple(cut(means) for means in self.reference),
        )


@dataclass(frozen=True)
class TrainedStep:
    """Inputs of one loss: a step of every image, for U states before and V states after it."""

    steps: Tensor
    """Index of the step of each state before it, `[U]`."""
    before: Tensor
    """Tokens before the step, `[U, N, 64]`."""
    after: Tensor
    """Tokens after the step, `[V, N, 64]`."""
    log_density: Tensor
    """Log-probability of the step under the model that sampled it, `[V]`."""
    mean: Tensor | None = None
    """Mean of the step under the model that sampled it, `[U, N, 64]`."""
    reference: Tensor | None = None
    """Mean of the step under the initial model, `[U, N, 64]`."""
    advantages: Tensor | None = None
    """Advantages `[V]`; None before `settle`."""
    weight: Tensor | None = None
    """Weight of the step in the score of its trajectory, `[V]`; None for losses of single steps."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Metrics of the images."""


def whole_step(collected: Moves, index: int, move: Move) -> TrainedStep:
    """Return the same step for all images."""
    settled = bool(collected.advantages)
    return TrainedStep(
        steps=torch.full((len(move.before),), move.step),
        before=move.before,
        after=move.after,
        log_density=move.log_density,
        mean=move.mean,
        reference=collected.reference[index] if collected.reference else None,
        weight=collected.weights[index] if collected.weights else None,
        advantages=collected.advantages[index] if settled else None,
        metrics=collected.metrics[move.scores] if settled else {},
    )


def mixed_step(collected: Moves, index: int, indices: Tensor) -> TrainedStep:
    """Return a step of each image's own, `indices` `[S]` among the moves."""
    moves, settled = collected.moves, bool(collected.advantages)
    chosen = list(enumerate(indices.tolist()))
    means = [moves[step].mean for _, step in chosen]
    return TrainedStep(
        steps=torch.tensor([moves[step].step for _, step in chosen]),
        before=torch.stack([moves[step].before[row] for row, step in chosen]),
        after=torch.stack([moves[step].after[row] for row, step in chosen]),
        log_density=torch.stack([moves[step].log_density[row] for row, step in chosen]),
        mean=torch.stack([mean[row] for row, mean in enumerate(means) if mean is not None])
        if moves[0].mean is not None
        else None,
        reference=collected.reference[index] if collected.reference else None,
        weight=collected.weights[index] if collected.weights else None,
        advantages=torch.stack([collected.advantages[step][row] for row, step in chosen]) if settled else None,
        metrics=collected.metrics[0] if settled else {},
    )

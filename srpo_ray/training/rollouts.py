"""Reuse of rollouts over several updates: the clean tokens of the current window, in memory and in checkpoints."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from srpo_ray.algorithms import Batch
from srpo_ray.config import RunConfig
from srpo_ray.runs.checkpoint import Checkpoint
from srpo_ray.runs.checkpoint_files import ROLLOUTS
from srpo_ray.runs.collectives import rank_and_world_size


class KeptRollouts:
    """Batch of a reuse window: of `reuse` consecutive updates, the first samples rollouts and the others reuse them.

    All updates of a window share prompts and clean tokens. Each draws its own landing points, noise and control words.
    """

    def __init__(self, reuse: int, tokens: Mapping[str, Tensor] | None = None, written: Collection[str] = ()) -> None:
        """Start at an update.

        Args:
            reuse: Updates per window.
            tokens: Sample -> clean tokens of the whole batch, inside a window; None at the start of a window.
            written: Samples that this worker writes into the next checkpoint.
        """
        self._reuse = reuse
        self._tokens = dict(tokens or {})
        self._written = set(written)

    def window(self, update: int) -> int:
        """Return the window index of an update, from 0. It addresses the prompts."""
        return update // self._reuse

    def tokens(self, update: int, samples: Sequence[int]) -> dict[int, Tensor]:
        """Return position in `samples` -> clean tokens `[1, N, C]`; empty in the first update of a window."""
        if update % self._reuse == 0:
            return {}
        return {row: self._tokens[_name(sample)][None] for row, sample in enumerate(samples)}

    def keep(self, update: int, rounds: Iterable[tuple[Batch, float, Any]]) -> None:
        """Keep the rollouts of the first update of a window.

        Args:
            update: Index of the update, from 0.
            rounds: For each micro-batch: the batch, its share of the update, and its `direct_align.Rollout`.
        """
        if self._reuse == 1 or update % self._reuse:
            return
        self._tokens.clear()
        self._written.clear()
        for batch, share, collected in rounds:
            names = [_name(sample) for sample in batch.draws.samples]
            self._tokens |= dict(zip(names, collected.clean, strict=True))
            if share:
                self._written.update(names)

    def state(self, updates: int) -> dict[str, Tensor]:
        """Return this worker's part of the window for a checkpoint. All workers' parts make up the whole batch.

        Args:
            updates: Updates made.

        Returns:
            Sample -> clean tokens `[N, C]` on the CPU; empty between two windows.
        """
        if updates % self._reuse == 0:
            return {}
        return {name: tokens.cpu() for name, tokens in self._tokens.items() if name in self._written}


def resume_rollouts(config: RunConfig, checkpoint: Checkpoint | None, device: str) -> KeptRollouts:
    """Restore the reuse window in which a run starts or continues.

    Raises:
        ValueError: If the checkpoint is inside a window and lacks a part of the window's batch.
    """
    reuse = config.rollout.reuse
    if checkpoint is None or checkpoint.update % reuse == 0:
        return KeptRollouts(reuse)
    size = config.training.batch_size
    absent = {_name(sample) for sample in range(size)} - set(checkpoint.extra.get(ROLLOUTS, {}))
    if absent:
        raise ValueError(
            f"expected the clean tokens of {size} samples in the checkpoint of update {checkpoint.update}, inside a"
            f" window of rollout.reuse={reuse} updates, got {size - len(absent)}; it was written with another"
            " rollout.reuse: restore that value, or remove the checkpoint to continue from the one before it"
        )
    tokens = {name: value.to(device) for name, value in checkpoint.extra.get(ROLLOUTS, {}).items()}
    rank, world_size = rank_and_world_size()
    return KeptRollouts(reuse, tokens, sorted(tokens)[rank::world_size])


def _name(sample: int) -> str:
    return f"sample_{sample:06d}"

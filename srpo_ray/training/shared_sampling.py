"""Images of one evaluation that several processes sample together: each samples batches that no other one samples."""

import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from srpo_ray.data.cache.shards import ShardStore
from srpo_ray.evaluation.evaluator import Evaluator
from srpo_ray.runs.collectives import from_worker_0, gather, rank_and_world_size
from srpo_ray.runs.turns import EXCLUSIVE, SHARED, ProgressTimeout, lock

_POLL_S = 0.25
"""Seconds between two looks at the files of other processes. Workers synchronise at each, as collectives time out."""
_Step = int | Literal["wait", "end"]
"""Index of a batch to sample; or a pause was made, and the next step follows; or there is none."""
_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
"""Name of a stored tensor -> its memory format, on which the last bits of a score may depend."""


class SharedImages:
    """Images of an evaluation on disk, one file for each batch and worker, until the evaluation is complete.

    All workers of a run call every method; worker 0 decides for all. If the storage cannot be written, a run samples
    and scores alone. If it has no locks, runs do not wait for each other, and each may sample every batch.
    """

    def __init__(
        self,
        folder: Path,
        evaluator: Evaluator,
        sample: Callable[[Sequence[int]], Tensor],
        is_complete: Callable[[], bool],
    ) -> None:
        """Describe the images; nothing is read or created on disk until it is needed.

        Args:
            folder: Folder of the evaluation, the same for all processes that sample the same images.
            evaluator: Evaluator of the run.
            sample: Function from items of a batch to their images `[B, 3, H, W]`; a collective of all workers.
            is_complete: Test whether the evaluation has been written; called on worker 0.
        """
        self._store = ShardStore(folder / "images")
        self._use, self._turn = folder / "images.lock", folder / "shared.lock"
        self._batches, self._sample, self._is_complete = evaluator.batched_items, sample, is_complete
        self._all = range(len(self._batches))
        self._rank, self._world_size = rank_and_world_size()
        # A network share may show the files of other workers late.
        self._sampled: set[int] = set()
        self._sampling = ProgressTimeout()
        self._abandoned = False

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the images during the block, then remove them as `remove_if_unused` does."""
        with ExitStack() as held:
            if self._rank == 0:
                with suppress(OSError):
                    lock(self._use, SHARED, held)
            yield
        self.remove_if_unused()

    def remove_if_unused(self) -> None:
        """Remove the images of a complete evaluation, unless a process uses them, such as one with other words.

        Those on storage that cannot be written are removed too: a full disk needs their space.
        """
        if self._rank > 0 or not self._store.folder.exists():
            return
        with suppress(OSError), ExitStack() as held:
            if (self._abandoned or self._is_complete()) and lock(self._use, EXCLUSIVE, held):
                shutil.rmtree(self._store.folder, ignore_errors=True)

    def abandon(self) -> None:
        """Remove the images after their use even if the evaluation is not stored."""
        self._abandoned = True

    def sample_until(self, ready: Callable[[], bool]) -> None:
        """Sample one batch after another until the rewards are ready.

        It ends before if all batches are stored, or the other processes make no progress.

        Args:
            ready: Test whether the rewards can be used; called on worker 0.
        """

        def next_step(claim: ExitStack) -> _Step:
            return "end" if ready() else self._claim(self._all, claim)

        while self._do(next_step):
            pass

    @contextmanager
    def turn_to_score(self) -> Iterator[None]:
        """Let one process at a time run the block; if that one makes no progress, run it too.

        A process that waits for its turn samples batches for the others.
        """
        scoring = ProgressTimeout()

        def next_step(held: ExitStack, claim: ExitStack) -> _Step:
            if self._has_turn(held, scoring):
                return "end"
            found = self._claim(self._all, claim)
            if found == "end":
                # Another process scores what is sampled.
                time.sleep(_POLL_S)
            return "wait" if found == "end" else found

        with ExitStack() as held:
            while self._do(partial(next_step, held)):
                pass
            yield

    def _do(self, next_step: Callable[[ExitStack], _Step]) -> bool:
        """Ask worker 0 for the next step, and take it; False at the end."""
        with ExitStack() as claim:
            found = from_worker_0(partial(next_step, claim))
            if isinstance(found, int):
                self._sample_and_store(found)
            return found != "end"

    def batches(self, device: torch.device) -> Iterator[tuple[list[int], Tensor]]:
        """Read this worker's batches, those that are stored first, and sample those that no other process samples.

        Args:
            device: Device of the images.

        Yields:
            Items of a batch, and their images `[B, 3, H, W]` as they were sampled.
        """
        left = list(self._all)
        while left:
            with ExitStack() as claim:
                found = from_worker_0(partial(self._next_batch, left, claim))
                if found is None:
                    continue
                index, is_stored = found
                images = self._read(index) if is_stored else None
                if any(gather(images is None)) or images is None:
                    images = self._sample_and_store(index)
            left.remove(index)
            yield self._batches[index], images.to(device)

    def _next_batch(self, left: Sequence[int], claim: ExitStack) -> tuple[int, bool] | None:
        """Choose a batch that is stored, or one to sample; None after a pause if others sample all that are left."""
        # Progress for the processes that wait for their turn.
        with suppress(OSError):
            os.utime(self._turn)
        index = self._stored_one(left)
        if index is not None:
            return index, True
        found = self._claim(left, claim)
        if found == "wait":
            return None
        if found != "end":
            return found, False
        # The last of them may have been stored between the two looks.
        index = self._stored_one(left)
        return (left[0], False) if index is None else (index, True)

    def _stored_one(self, left: Sequence[int]) -> int | None:
        with suppress(OSError):
            stored = self._stored()
            return next((index for index in left if index in stored), None)
        return None

    def _claim(self, left: Sequence[int], claim: ExitStack) -> _Step:
        """Choose a missing batch that no other process samples; none does until `claim` is closed.

        Args:
            left: Batches to choose from.
            claim: Receives the claim.

        Returns:
            Index of the batch; "wait", after a pause, if other processes sample all that are missing; "end" if none is
            missing, the others make no progress, or the storage cannot be used.
        """
        if self._abandoned:
            return "end"
        try:
            stored = self._stored()
            missing = [index for index in left if index not in stored]
            if not missing or self._is_complete():
                return "end"
            for index in missing:
                with ExitStack() as attempt:
                    free = lock(self._store.folder / f"{index:05d}.lock", EXCLUSIVE, attempt)
                    # Another process may have stored it since.
                    if free and index not in self._stored():
                        claim.enter_context(attempt.pop_all())
                        return index
        except OSError as error:
            self._warn(error)
            return "end"
        if self._sampling.has_expired(stored):
            return "end"
        time.sleep(_POLL_S)
        return "wait"

    def _has_turn(self, held: ExitStack, timeout: ProgressTimeout) -> bool:
        with suppress(OSError):
            if lock(self._turn, EXCLUSIVE, held):
                return True
            # The process that scores samples too, so a stored batch is progress as well.
            return timeout.has_expired((self._turn.stat().st_mtime_ns, self._stored()))
        return True

    def _stored(self) -> set[int]:
        names, ranks = self._store.names(), range(self._world_size)
        whole = {i for i in self._all if all(_name(i, rank) in names for rank in ranks)}
        return whole | self._sampled

    def _sample_and_store(self, index: int) -> Tensor:
        """Sample a batch and store it, unless the storage of a worker cannot be written."""
        images = self._sample(self._batches[index])
        if not self._abandoned:
            layout = "contiguous" if images.is_contiguous() else "channels_last"
            try:
                self._store.add(self._keys(index), {layout: images.cpu()}, _name(index, self._rank))
            except (OSError, SafetensorError) as error:
                self._warn(error)
        # Then no worker stores any more: all are needed to read a batch.
        self._abandoned = any(gather(self._abandoned))
        self._sampled.add(index)
        return images

    def _read(self, index: int) -> Tensor | None:
        try:
            found = self._store.read(_name(index, self._rank), self._keys(index)) or {}
        except OSError as error:
            self._warn(error)
            return None
        return next((images.contiguous(memory_format=_FORMATS[layout]) for layout, images in found.items()), None)

    def _keys(self, index: int) -> list[str]:
        return [str(item) for item in self._batches[index]]

    def _warn(self, error: Exception) -> None:
        self.abandon()
        message = f"{self._store.folder} cannot be used ({error}), so this run samples its base model's images alone"
        warnings.warn(message, stacklevel=2)


def _name(index: int, rank: int) -> str:
    return f"{index:05d}-{rank}"

"""First-block cache: transformer calls of a rollout that run only the first block, where it changes little.

A sampler's neighbouring steps change the output of the first block little, and that of the other blocks hardly more. If
the first block's residual has changed by less than a threshold since the last call that ran all blocks, the others are
skipped, and their residual of that call is added instead. Every sample decides for itself, so an image does not
depend on the images in its batch.

Source: ParaAttention's first-block cache, https://github.com/chengzeyi/ParaAttention, which is also in diffusers; there
all samples of a batch decide together.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Streams = tuple[Tensor | None, Tensor]
"""Text tokens `[B, L, D]` and image tokens `[B, N, D]`, as a block returns them. The last block may return no text."""


class BlockCache:
    """State of one rollout: residuals of each sample's last full call, and the work that was skipped."""

    def __init__(self, threshold: float) -> None:
        """Start a rollout with an empty cache.

        Args:
            threshold: Relative change of the first block's residual below which the other blocks are skipped: mean
                absolute difference from the last full call, over that call's mean absolute value. 0 skips nothing.
        """
        self.skipped = 0.0
        """Work that was skipped, in transformer calls of one sample: the share of the blocks that did not run."""
        self._threshold = threshold
        self._first: Tensor | None = None
        """Residual of the first block in each sample's last full call, `[B, N, D]`."""
        self._rest: Tensor | None = None
        """Residual of all other blocks in that call, `[B, N, D]`."""
        self._rows: Tensor | None = None
        """Samples of the present call that run all blocks, `[R]`; None for all of them."""
        self._after_first = torch.empty(0)
        """Image tokens after the first block, `[B, N, D]`."""

    @contextmanager
    def active(self, transformer: nn.Module, lists: Sequence[str]) -> Iterator[None]:
        """Replace a transformer's blocks by ones that use the cache, in calls without gradient.

        The blocks themselves do not change, so compiled blocks stay compiled. Skipping differs among workers, so the
        blocks must not gather weights.

        Args:
            transformer: The transformer; its lists of blocks are restored at the end.
            lists: Names of its lists of blocks, in the order of their calls.
        """
        originals = {name: getattr(transformer, name) for name in lists}
        blocks = [block for each in originals.values() for block in each]
        calls = iter(self._calls(blocks))
        try:
            for name, each in originals.items():
                setattr(transformer, name, nn.ModuleList([_Replacement(next(calls)) for _ in each]))
            yield
        finally:
            for name, each in originals.items():
                setattr(transformer, name, each)

    def _calls(self, blocks: Sequence[nn.Module]) -> Iterator[Callable[..., Streams]]:
        """Yield the replacement of each block's call."""
        for index, block in enumerate(blocks):

            def call(
                *,
                hidden_states: Tensor,
                encoder_hidden_states: Tensor,
                block: nn.Module = block,
                index: int = index,
                **inputs: Any,
            ) -> Streams:
                if index == 0:
                    return self._run_first(block, hidden_states, encoder_hidden_states, inputs, len(blocks))
                streams = self._run(block, hidden_states, encoder_hidden_states, inputs)
                return self._finish(streams) if index == len(blocks) - 1 else streams

            yield call

    def _run_first(
        self, block: nn.Module, image: Tensor, text: Tensor, inputs: dict[str, Any], num_blocks: int
    ) -> Streams:
        """Run the first block, choose the samples that run the others, and return the tokens of these."""
        assert not torch.is_grad_enabled(), "the cache is for calls without gradient"
        text_after, after = block(hidden_states=image, encoder_hidden_states=text, **inputs)
        residual, self._after_first = after - image, after
        changed = self._changed(residual)
        self._rows = None if changed is None else changed.nonzero().flatten()
        if self._rows is None or len(self._rows) == len(image):
            self._rows = None
            self._first = residual
            return text_after, after
        assert self._first is not None
        self._first[self._rows] = residual[self._rows]
        self.skipped += (len(image) - len(self._rows)) * (num_blocks - 1) / num_blocks
        return text_after[self._rows], after[self._rows]

    def _changed(self, residual: Tensor) -> Tensor | None:
        """Return true for each sample whose residual has changed, `[B]`; None in the first call."""
        if self._first is None:
            return None
        change = (residual - self._first).abs().mean(dim=(1, 2), dtype=torch.float32)
        scale = self._first.abs().mean(dim=(1, 2), dtype=torch.float32)
        # A change that is not a number runs all blocks.
        return ~(change < self._threshold * scale)

    def _run(self, block: nn.Module, image: Tensor, text: Tensor, inputs: dict[str, Any]) -> Streams:
        """Run another block on the samples that run all, if there are any."""
        if self._rows is None:
            return block(hidden_states=image, encoder_hidden_states=text, **inputs)
        if not len(self._rows):
            return text, image
        own = {**inputs, "temb": inputs["temb"][self._rows]}
        return block(hidden_states=image, encoder_hidden_states=text, **own)

    def _finish(self, streams: Streams) -> Streams:
        """Return the image tokens of all samples after the last block, and keep the residuals of those that ran."""
        text, image = streams
        if self._rows is None:
            self._rest = image - self._after_first
            return text, image
        assert self._rest is not None
        self._rest[self._rows] = image - self._after_first[self._rows]
        whole = self._after_first + self._rest
        whole[self._rows] = image
        return text, whole


class _Replacement(nn.Module):
    """Block in a transformer's list that only calls a function. It holds no weights."""

    def __init__(self, call: Callable[..., Streams]) -> None:
        super().__init__()
        self._call = call

    def forward(self, **inputs: Any) -> Streams:
        """Call the function."""
        return self._call(**inputs)

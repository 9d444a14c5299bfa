"""Text conditioning of the transformer."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Text features of each sample for the transformer, of its plain text without control words."""

    prompt_embeds: Tensor
    """Features of every token `[B, L, D]`; T5's in FLUX."""
    pooled_prompt_embeds: Tensor
    """Pooled features of CLIP `[B, P]`."""

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def __getitem__(self, index: slice | list[int] | Tensor) -> "Conditioning":
        return Conditioning(self.prompt_embeds[index], self.pooled_prompt_embeds[index])

    def repeat(self, count: int) -> "Conditioning":
        """Repeat each sample `count` times in a row, `[B * count, ...]`. A single sample stays one in memory."""

        def repeated(features: Tensor) -> Tensor:
            if len(features) == 1:
                return features.expand(count, *features.shape[1:])
            return features.repeat_interleave(count, dim=0)

        return Conditioning(repeated(self.prompt_embeds), repeated(self.pooled_prompt_embeds))

    def contiguous(self) -> "Conditioning":
        """Copy features that are repeated without memory of their own; others are returned as they are."""
        return Conditioning(self.prompt_embeds.contiguous(), self.pooled_prompt_embeds.contiguous())

    def scaled(self, empty: "Conditioning", scale: float) -> "Conditioning":
        """Compute the features `empty + scale (self - empty)`, token by token.

        1 gives these features and 0 those of the empty text, bit for bit. Other scales need features without a mask.

        Args:
            empty: Features of the empty text, one sample.
            scale: Any number; values below 0 point away from the text.
        """
        if scale == 1:
            return self
        start = empty.repeat(len(self)).to(self.prompt_embeds.device, self.prompt_embeds.dtype)
        return Conditioning(
            torch.lerp(start.prompt_embeds, self.prompt_embeds, scale),
            torch.lerp(start.pooled_prompt_embeds, self.pooled_prompt_embeds, scale),
        )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Conditioning":
        """Move both tensors to a device and data type."""
        return Conditioning(self.prompt_embeds.to(device, dtype), self.pooled_prompt_embeds.to(device, dtype))


class ConditioningSource(Protocol):
    """Interface to the text features of a list of prompts, read on demand; `Conditioning` implements it."""

    def __len__(self) -> int:
        """Number of prompts."""
        ...

    def __getitem__(self, index: list[int], /) -> Conditioning:
        """Features of the prompts with these indices, in this order."""
        ...

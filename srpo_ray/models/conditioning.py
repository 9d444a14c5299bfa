"""Text conditioning of the transformer."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """What the transformer is told about each sample: the plain prompt, never the control words."""

    prompt_embeds: Tensor
    """Features of every token `[B, L, D]`; of T5 in FLUX."""
    pooled_prompt_embeds: Tensor
    """Pooled features `[B, P]`, of CLIP."""

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def __getitem__(self, index: slice | list[int] | Tensor) -> "Conditioning":
        return Conditioning(self.prompt_embeds[index], self.pooled_prompt_embeds[index])

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Conditioning":
        """Move both tensors."""
        return Conditioning(self.prompt_embeds.to(device, dtype), self.pooled_prompt_embeds.to(device, dtype))


class ConditioningSource(Protocol):
    """Text features of a list of prompts, read when they are asked for; a `Conditioning` is one too."""

    def __len__(self) -> int:
        """Number of prompts."""
        ...

    def __getitem__(self, index: list[int], /) -> Conditioning:
        """Features of the prompts with these indices, in this order."""
        ...

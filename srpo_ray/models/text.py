"""Text conditioning of the transformer. Encoders run once per prompt and are then dropped."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """What the transformer is told about each sample: the plain prompt, never the control words."""

    prompt_embeds: Tensor
    """T5 features `[B, L, D]`."""
    pooled_prompt_embeds: Tensor
    """Pooled CLIP features `[B, P]`."""

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def __getitem__(self, index: slice | list[int] | Tensor) -> "Conditioning":
        return Conditioning(self.prompt_embeds[index], self.pooled_prompt_embeds[index])

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Conditioning":
        """Move both tensors."""
        return Conditioning(self.prompt_embeds.to(device, dtype), self.pooled_prompt_embeds.to(device, dtype))


@torch.no_grad()
def encode_prompts(
    path: str,
    prompts: Sequence[str],
    max_sequence_length: int,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    batch_size: int = 32,
) -> Conditioning:
    """Encode prompts with a pipeline's own text encoders.

    Args:
        path: Folder or hub id of a `FluxPipeline`.
        prompts: Prompts, in any language.
        max_sequence_length: T5 tokens per prompt; longer prompts are cut by the pipeline, which warns.
        dtype: Data type that the encoders run in.
        device: Where the encoders run.
        batch_size: Prompts per encoder call.

    Returns:
        Conditioning of the prompts in their order, on the CPU.
    """
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(path, transformer=None, vae=None, torch_dtype=dtype).to(device)
    embeds, pooled = [], []
    for start in range(0, len(prompts), batch_size):
        batch = list(prompts[start : start + batch_size])
        prompt_embeds, pooled_embeds, _ = pipeline.encode_prompt(batch, max_sequence_length=max_sequence_length)
        assert prompt_embeds is not None
        assert pooled_embeds is not None
        embeds.append(prompt_embeds.cpu())
        pooled.append(pooled_embeds.cpu())
    return Conditioning(torch.cat(embeds), torch.cat(pooled))

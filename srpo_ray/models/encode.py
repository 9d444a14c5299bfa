"""Text encoders, which run once per prompt and are then dropped."""

from collections.abc import Sequence
from typing import Any

import diffusers
import torch

from srpo_ray.models.families import family_of
from srpo_ray.models.policies import policy_class
from srpo_ray.models.text import Conditioning


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
        path: Folder or hub id of the pipeline.
        prompts: Prompts, in any language.
        max_sequence_length: T5 tokens per prompt; longer prompts are cut by the pipeline, which warns.
        dtype: Data type that the encoders run in.
        device: Where the encoders run.
        batch_size: Prompts per encoder call.

    Returns:
        Conditioning of the prompts in their order, on the CPU.
    """
    policy = policy_class(path)
    pipeline_class: Any = getattr(diffusers, family_of(path).pipeline)
    pipeline = pipeline_class.from_pretrained(path, transformer=None, vae=None, torch_dtype=dtype).to(device)
    embeds, pooled = [], []
    for start in range(0, len(prompts), batch_size):
        batch = list(prompts[start : start + batch_size])
        prompt_embeds, pooled_embeds = policy.text_features(pipeline, batch, max_sequence_length)
        embeds.append(prompt_embeds.cpu())
        pooled.append(pooled_embeds.cpu())
    return Conditioning(torch.cat(embeds), torch.cat(pooled))

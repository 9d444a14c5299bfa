"""Text encoders, which run once per prompt and are then dropped."""

from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError

from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.families import family_of
from srpo_ray.models.paths import unreadable
from srpo_ray.models.registry import policy_class

_BATCH_SIZE = 32


class TextEncoders:
    """A pipeline's own text encoders, in memory as long as this object."""

    def __init__(self, path: str, max_sequence_length: int, dtype: torch.dtype, device: str) -> None:
        """Load them.

        Args:
            path: Folder or hub id of a pipeline.
            max_sequence_length: T5 tokens per prompt; longer prompts are cut.
            dtype: Data type that the encoders run in.
            device: Where they run.

        Raises:
            ValueError: If there are no readable text encoders at `path`.
        """
        pipeline_class: Any = getattr(diffusers, family_of(path).pipeline)
        try:
            pipeline = pipeline_class.from_pretrained(path, transformer=None, vae=None, torch_dtype=dtype)
        except (OSError, SafetensorError) as error:
            raise ValueError(unreadable(path, "text encoders", error)) from error
        self._pipeline = pipeline.to(device)
        self._policy = policy_class(path)
        self._max_sequence_length = max_sequence_length

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Features of prompts in any language, in their order, on the CPU; exactly what the pipeline computes itself.

        All tokens are kept, those of the padding too, because FLUX attends to them.
        """
        parts = []
        for start in range(0, len(prompts), _BATCH_SIZE):
            batch = list(prompts[start : start + _BATCH_SIZE])
            embeds, pooled = self._policy.text_features(self._pipeline, batch, self._max_sequence_length)
            parts.append((embeds.cpu(), pooled.cpu()))
        return Conditioning(torch.cat([embeds for embeds, _ in parts]), torch.cat([pooled for _, pooled in parts]))


def encode_prompts(
    path: str, prompts: Sequence[str], max_sequence_length: int, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Conditioning:
    """Load a pipeline's text encoders, encode a few prompts and drop the encoders; see `TextEncoders`."""
    return TextEncoders(path, max_sequence_length, dtype, device).encode(prompts)

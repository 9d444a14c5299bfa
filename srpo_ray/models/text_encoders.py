"""Text encoders, which run once per prompt and are then removed from memory."""

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
    """Text encoders of a pipeline, in memory as long as this object."""

    def __init__(self, path: str, max_sequence_length: int, dtype: torch.dtype, device: str) -> None:
        """Load the encoders.

        Args:
            path: Folder or hub id of a pipeline.
            max_sequence_length: See `model.max_sequence_length`; longer prompts are truncated.
            dtype: Data type of the encoders.
            device: Device of the encoders.

        Raises:
            ValueError: If there are no readable text encoders at `path`.
        """
        pipeline_class: Any = getattr(diffusers, family_of(path).pipeline)
        try:
            pipeline = pipeline_class.from_pretrained(path, transformer=None, vae=None, dtype=dtype)
        except (OSError, SafetensorError) as error:
            raise ValueError(unreadable(path, "text encoders", error)) from error
        self._pipeline = pipeline.to(device)
        self._policy = policy_class(path)
        self._max_sequence_length = max_sequence_length

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts in any language, with the same result as the pipeline; features in their order, on the CPU.

        Padding tokens are kept, because FLUX attends to them; other families keep a mask with the features.
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
    """Load a pipeline's text encoders, encode a few prompts and free the encoders; see `TextEncoders`."""
    return TextEncoders(path, max_sequence_length, dtype, device).encode(prompts)

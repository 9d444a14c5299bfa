"""Text conditioning of the transformer. Encoders run once per prompt and are then dropped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

TEXT_PARTS = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
"""Folders of a pipeline that the features of a text depend on."""

_BATCH_SIZE = 32
_COUNTED_AT_ONCE = 10_000


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


class ConditioningSource(Protocol):
    """Text features of a list of prompts, read when they are asked for; a `Conditioning` is one too."""

    def __len__(self) -> int:
        """Number of prompts."""
        ...

    def __getitem__(self, index: list[int], /) -> Conditioning:
        """Features of the prompts with these indices, in this order."""
        ...


class TextEncoders:
    """A pipeline's own text encoders, in memory as long as this object."""

    def __init__(self, path: str, max_sequence_length: int, dtype: torch.dtype, device: str) -> None:
        """Load them.

        Args:
            path: Folder or hub id of a `FluxPipeline`.
            max_sequence_length: T5 tokens per prompt; longer prompts are cut.
            dtype: Data type that the encoders run in.
            device: Where they run.

        Raises:
            ValueError: If there are no readable text encoders at `path`.
        """
        from diffusers import FluxPipeline

        try:
            # Without a transformer there is nothing that diffusers could annotate better.
            pipeline: Any = FluxPipeline.from_pretrained(path, transformer=None, vae=None, torch_dtype=dtype)
        except OSError as error:
            raise ValueError(_unreadable(path, "text encoders", error)) from error
        self._pipeline = pipeline.to(device)
        self._max_sequence_length = max_sequence_length

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Features of prompts in any language, in their order, on the CPU; exactly what the pipeline computes itself.

        All T5 tokens are kept, those of the padding too, because FLUX attends to them.
        """
        parts = []
        for start in range(0, len(prompts), _BATCH_SIZE):
            batch = list(prompts[start : start + _BATCH_SIZE])
            embeds, pooled, _ = self._pipeline.encode_prompt(batch, max_sequence_length=self._max_sequence_length)
            parts.append((embeds.cpu(), pooled.cpu()))
        return Conditioning(torch.cat([embeds for embeds, _ in parts]), torch.cat([pooled for _, pooled in parts]))


def encode_prompts(
    path: str, prompts: Sequence[str], max_sequence_length: int, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Conditioning:
    """Load a pipeline's text encoders, encode a few prompts and drop the encoders; see `TextEncoders`."""
    return TextEncoders(path, max_sequence_length, dtype, device).encode(prompts)


@dataclass(frozen=True)
class CutPrompts:
    """Prompts that are longer than what a text encoder takes."""

    encoder: str
    limit: int
    """Tokens that the encoder takes, its end token included."""
    texts: list[str]

    @property
    def note(self) -> str:
        """What a person should know."""
        first = self.texts[0] if len(self.texts[0]) <= 60 else f"{self.texts[0][:57]}..."
        number = "1 prompt is" if len(self.texts) == 1 else f"{len(self.texts)} prompts are"
        return f"{number} longer than {self.limit} {self.encoder} tokens and cut: {first!r}"


def cut_prompts(path: str, prompts: Sequence[str], max_sequence_length: int) -> list[CutPrompts]:
    """Find the prompts of which a text encoder sees the beginning only.

    Args:
        path: Folder or hub id of a `FluxPipeline`; only its tokenizers are loaded.
        prompts: Prompts, in any language.
        max_sequence_length: T5 tokens per prompt.

    Returns:
        One entry for each encoder that cuts any, T5 first.

    Raises:
        ValueError: If a tokenizer cannot be read.
    """
    found = []
    for encoder, subfolder, length in (("T5", "tokenizer_2", max_sequence_length), ("CLIP", "tokenizer", None)):
        tokenizer = _load_tokenizer(path, subfolder)
        limit = length or tokenizer.model_max_length
        long = []
        for start in range(0, len(prompts), _COUNTED_AT_ONCE):
            texts = list(prompts[start : start + _COUNTED_AT_ONCE])
            tokens = tokenizer(texts, verbose=False)["input_ids"]
            long += [text for text, ids in zip(texts, tokens, strict=True) if len(ids) > limit]
        if long:
            found.append(CutPrompts(encoder, limit, long))
    return found


def _load_tokenizer(path: str, subfolder: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, subfolder=subfolder)
    except OSError as error:
        raise ValueError(_unreadable(path, subfolder, error)) from error


def _unreadable(path: str, part: str, error: OSError) -> str:
    return (
        f"model.path: expected a folder or hub id with a FluxPipeline in the diffusers layout, got {path!r}, whose"
        f" {part} cannot be read; check the path, or for a gated hub id accept its licence and log in ({error})"
    )

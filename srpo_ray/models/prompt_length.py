"""Detection of prompts that exceed the token limit of a text encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from srpo_ray.models.families import family_of
from srpo_ray.models.paths import unreadable

_COUNTED_AT_ONCE = 10_000


@dataclass(frozen=True)
class CutPrompts:
    """Prompts that exceed the token limit of a text encoder."""

    encoder: str
    limit: int
    """Maximum number of tokens of the encoder, the end token included."""
    texts: list[str]

    @property
    def note(self) -> str:
        """Note for the user."""
        first = self.texts[0] if len(self.texts[0]) <= 60 else f"{self.texts[0][:57]}..."
        number = "1 prompt is" if len(self.texts) == 1 else f"{len(self.texts)} prompts are"
        return f"{number} longer than {self.limit} {self.encoder} tokens and truncated: {first!r}"


def cut_prompts(path: str, prompts: Sequence[str], max_sequence_length: int) -> list[CutPrompts]:
    """Find the prompts that a text encoder truncates.

    Args:
        path: Folder or hub id of a pipeline; only its tokenizers are loaded.
        prompts: Prompts, in any language.
        max_sequence_length: T5 tokens per prompt.

    Returns:
        One entry for each encoder that truncates any, T5 first.

    Raises:
        ValueError: If a tokenizer cannot be read.
    """
    found = []
    *clip, t5 = family_of(path).tokenizers
    for encoder, subfolder, length in (("T5", t5, max_sequence_length), ("CLIP", clip[0], None)):
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
        raise ValueError(unreadable(path, subfolder, error)) from error

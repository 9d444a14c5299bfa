"""Detection of prompts that exceed the token limit of a text encoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from srpo_ray.models.families import family_of
from srpo_ray.models.paths import unreadable
from srpo_ray.models.prompt_texts import plain_text

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


def check_text_length(path: str, max_sequence_length: int) -> None:
    """Check that texts keep tokens of their prompts, if the family puts prompts into a template.

    Args:
        path: Folder or hub id of a pipeline; only its tokenizer is loaded.
        max_sequence_length: See `model.max_sequence_length`.

    Raises:
        ValueError: If the template alone fills the texts, the pipeline takes no texts of this length, or the tokenizer
            cannot be read.
    """
    family = family_of(path)
    if family.prompt_text is plain_text:
        return
    tokenizer = _load_tokenizer(path, family.tokenizers[-1])
    template = len(tokenizer(family.prompt_text(tokenizer, ""))["input_ids"]) - family.template_tokens
    most = family.longest_text
    if not template < max_sequence_length <= (most or max_sequence_length):
        limit = f", and at most {most}" if most else ""
        raise ValueError(
            f"model.max_sequence_length: expected more than the {template} tokens of the template around a prompt"
            f"{limit} with a {family.pipeline}, got {max_sequence_length}; set it to 512, or to the length of your"
            " prompts in the template"
        )


def cut_prompts(path: str, prompts: Sequence[str], max_sequence_length: int) -> list[CutPrompts]:
    """Find the prompts that a text encoder truncates.

    Args:
        path: Folder or hub id of a pipeline; only its tokenizers are loaded.
        prompts: Prompts, in any language.
        max_sequence_length: Tokens per prompt of the encoder with the longest texts, T5 in FLUX.1.

    Returns:
        One entry for each encoder that truncates any, that with the longest texts first.

    Raises:
        ValueError: If a tokenizer cannot be read.
    """
    found = []
    family = family_of(path)
    *others, last = family.tokenizers
    tokenizer = _load_tokenizer(path, last)
    limit = max_sequence_length + family.template_tokens
    long = _longer(tokenizer, prompts, limit, lambda prompt: family.prompt_text(tokenizer, prompt))
    if long:
        found.append(CutPrompts(family.text_names[-1], max_sequence_length, long))
    if others:
        # The encoders of CLIP have equal tokenizers.
        tokenizer = _load_tokenizer(path, others[0])
        long = _longer(tokenizer, prompts, tokenizer.model_max_length, str)
        if long:
            found.append(CutPrompts(family.text_names[0], tokenizer.model_max_length, long))
    return found


def _longer(tokenizer: Any, prompts: Sequence[str], limit: int, text_of: Callable[[str], str]) -> list[str]:
    """Return the prompts whose texts have more tokens than `limit`."""
    long = []
    for start in range(0, len(prompts), _COUNTED_AT_ONCE):
        part = list(prompts[start : start + _COUNTED_AT_ONCE])
        tokens = tokenizer([text_of(prompt) for prompt in part], verbose=False)["input_ids"]
        long += [prompt for prompt, ids in zip(part, tokens, strict=True) if len(ids) > limit]
    return long


def _load_tokenizer(path: str, subfolder: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, subfolder=subfolder)
    except OSError as error:
        raise ValueError(unreadable(path, subfolder, error)) from error

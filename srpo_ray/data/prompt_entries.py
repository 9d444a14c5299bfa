"""Texts of one entry of a prompt file: its prompt, its conditioning and its control words."""

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from srpo_ray.config.algorithms.control_words import NO_WORDS, OwnWords, words_in_both
from srpo_ray.config.sources import text_key
from srpo_ray.data.prompt_formats import (
    BLANKS,
    CONDITIONING,
    NEGATIVE_WORDS,
    POSITIVE_WORDS,
    Broken,
    prompt_column,
)
from srpo_ray.data.text_files import TextFileError

_UNUSABLE = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")
"""Control characters except white space, and surrogates, which JSON can contain unpaired."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60


@dataclass(frozen=True)
class Row:
    """Texts of one entry."""

    prompt: str
    """Prompt without surrounding blanks; may be empty."""
    conditioning: str = ""
    """Text that conditions the model; empty if the entry has none of its own."""
    words: OwnWords = NO_WORDS
    """Control words; a side is empty if the entry has none of its own."""

    @property
    def given(self) -> list[str]:
        """Names of the further columns in which the entry has a value."""
        values = {CONDITIONING: self.conditioning, POSITIVE_WORDS: self.words.positive}
        return [name for name, value in (values | {NEGATIVE_WORDS: self.words.negative}).items() if value]


def find_row(entry: object, columns: Sequence[str], further: Sequence[str]) -> Row | Broken:
    """Extract prompt, conditioning and words of one entry.

    Args:
        entry: Text, object, or `Broken`.
        columns: Names of the key with the prompt, in lower case, in order of precedence.
        further: Names of the further keys that are read.
    """
    prompt = find_text(entry, columns)
    if isinstance(prompt, Broken) or not isinstance(entry, Mapping):
        return prompt if isinstance(prompt, Broken) else Row(prompt)
    try:
        values = {name: _value_of(entry, name) for name in further}
        words = OwnWords(*(_words_in(values.get(name), name) for name in (POSITIVE_WORDS, NEGATIVE_WORDS)))
        row = Row(prompt, _text_in(values.get(CONDITIONING), CONDITIONING), words)
    except TextFileError as error:
        return Broken(str(error))
    if both := words_in_both(words.positive, words.negative):
        return Broken(f"{', '.join(map(repr, both))} in {POSITIVE_WORDS} and in {NEGATIVE_WORDS}")
    if row.given and not prompt:
        return Broken(f"{row.given[0]} without a prompt: {_shown(entry)}")
    return row


def columns_of(entry: object, further: Sequence[str]) -> set[str]:
    """Return the further columns that an entry has, with or without a value."""
    if not isinstance(entry, Mapping):
        return set()
    return {str(name).strip(BLANKS).lower() for name in entry} & set(further)


def find_text(entry: object, columns: Sequence[str]) -> str | Broken:
    """Extract the prompt of a text or object, without surrounding blanks; empty if the value is null or blank.

    Args:
        entry: Text, object, or `Broken`.
        columns: Names of the key with the prompt, in lower case, in order of precedence.
    """
    if isinstance(entry, Broken):
        return entry
    value = entry
    if isinstance(entry, Mapping):
        names = list(entry)
        try:
            column = prompt_column(names, columns)
        except TextFileError as error:
            return Broken(str(error))
        if column is not None and entry[names[column]] is None:
            return ""
        value = None if column is None else entry[names[column]]
    if not isinstance(value, str):
        return Broken(f"no text: {_shown(entry)}")
    try:
        return _usable(value)
    except TextFileError as error:
        return Broken(str(error))


def _value_of(entry: Mapping[str, object], name: str) -> object:
    names = list(entry)
    column = prompt_column(names, (name,))
    return None if column is None else entry[names[column]]


def _text_in(value: object, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TextFileError(f"no text in {name}: {_shown(value)}")
    return _usable(value)


def _words_in(value: object, name: str) -> tuple[str, ...]:
    """Split a text at its commas, or take the texts of a list; null, a blank text and an empty list have no words."""
    texts = value if isinstance(value, list) else _text_in(value, name).split(",")
    words = tuple(_text_in(text, name) for text in texts)
    if not isinstance(value, list) and words == ("",):
        return ()
    if any(not text_key(word) for word in words):
        raise TextFileError(f"an empty word in {name}: {_shown(value)}")
    return words


def _usable(text: str) -> str:
    unusable = _UNUSABLE.search(text)
    if unusable:
        raise TextFileError(f"the character U+{ord(unusable[0]):04X}, which a text cannot contain: {_shown(text)}")
    return text.strip(BLANKS)


def _shown(value: object) -> str:
    # Truncates deep, long or recursive values, and escapes control characters for terminals.
    return _REPR.repr(value)[:100]

"""Checks of the control words of a run's prompts: those of prompt files, and those of the run's set."""

from collections.abc import Sequence

from srpo_ray.config import RunConfig
from srpo_ray.config.algorithms.control_words import ControlWords, words_in_both
from srpo_ray.data.prompt_formats import NEGATIVE_WORDS, POSITIVE_WORDS
from srpo_ray.data.prompt_rows import PromptRows
from srpo_ray.data.texts import Texts

_TRAINED = "data.prompts"
_SHOWN = 60


def check_control_words(config: RunConfig, texts: Texts) -> None:
    """Check that every prompt of a run has the control words that its algorithm uses.

    Args:
        config: The run.
        texts: Its texts.

    Raises:
        ValueError: If training prompts have words and the algorithm uses none, if a prompt has no words where the run's
            set has none, or if a prompt has the same word on both sides.
    """
    words = config.trained_words
    if words is None and texts.training.has_words:
        got = _counted(texts.training, texts.training.words, config.data.prompts)
        attributes = config.algorithm.compares_texts
        reward, cure = ("its attributes", "remove algorithm.distribution and ") if attributes else ("the prompt", "")
        raise ValueError(
            f"{_TRAINED}: expected no control words with algorithm.type={config.algorithm.type}, whose rewards read"
            f" {reward} alone, got words for {got}; {cure}set algorithm.query to relative, or remove the columns"
            f" {POSITIVE_WORDS} and {NEGATIVE_WORDS}"
        )
    if words is not None:
        for key, rows in texts.by_key.items():
            check_rows(rows, words, f"{key}: ", sources(config)[key])


def check_rows(rows: PromptRows, words: ControlWords, prefix: str, source: str) -> None:
    """Check that prompts have words on both sides, their own or those of a set, and no word on both.

    Args:
        rows: Prompts.
        words: Control words of the run.
        prefix: Start of the message.
        source: File of the prompts.

    Raises:
        ValueError: If a prompt lacks words or has one on both sides.
    """
    for side, column in (("positive", POSITIVE_WORDS), ("negative", NEGATIVE_WORDS)):
        if getattr(words, side):
            continue
        lacking = [not getattr(own, side) for own in rows.words]
        if any(lacking):
            raise ValueError(
                f"{prefix}expected {column} for every prompt, as the {side} side of the set of algorithm.control_words"
                f" is empty, got none for {_counted(rows, lacking, source)}; add words to these prompts or to the set"
            )
    sides = [(own.positive or words.positive, own.negative or words.negative) for own in rows.words]
    both = [words_in_both(*each) if own else [] for own, each in zip(rows.words, sides, strict=True)]
    if any(both):
        first = next(words for words in both if words)
        raise ValueError(
            f"{prefix}expected positive and negative words of a prompt to share no word, own words and those of the set"
            f" of algorithm.control_words together, got {', '.join(map(repr, first))} on both sides for"
            f" {_counted(rows, both, source)}; remove it from one side"
        )


def unread_words_notes(config: RunConfig, texts: Texts) -> list[str]:
    """Note words of evaluation prompts that no score reads, because the run uses no control words."""
    if config.trained_words is not None:
        return []
    found = {key: rows for key, rows in texts.by_key.items() if key != _TRAINED and rows.has_words}
    return [unread_words_note(rows, f"{key}: ", sources(config)[key]) for key, rows in found.items()]


def unread_words_note(rows: PromptRows, prefix: str, source: str) -> str:
    """Note the words of prompts in a run without control words; at least one prompt has words."""
    counted = _counted(rows, rows.words, source)
    return f"{prefix}control words of {counted} are not read, because the run uses no control words"


def sources(config: RunConfig) -> dict[str, str]:
    """Return the source of the texts of each config key."""
    evaluation, images = config.evaluation, config.data.images
    return {
        _TRAINED: config.data.prompts,
        "evaluation.prompts": evaluation.prompts,
        **({"data.images": images} if images else {}),
        **({"evaluation.test.prompts": evaluation.test.prompts} if evaluation.test else {}),
    }


def _counted(rows: PromptRows, chosen: Sequence[object], source: str) -> str:
    """Count chosen prompts and name the first: `3 of 20 prompts of a.csv (first: prompt 7, 'a cat')`."""
    numbers = [index for index, value in enumerate(chosen) if value]
    text = rows.prompts[numbers[0]]
    shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
    return f"{len(numbers)} of {len(rows)} prompts of {source} (first: prompt {numbers[0] + 1}, {shown!r})"

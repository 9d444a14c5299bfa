"""The report on control words: which of them a reward model perceives, and how."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from srpo_ray.config.yaml_text import dump
from srpo_ray.reports.charts import HeatMap
from srpo_ray.reports.report import (
    Bar,
    Bars,
    Charts,
    Code,
    Facts,
    Image,
    Part,
    Report,
    Section,
    Text,
)
from srpo_ray.reports.words_tables import (
    axis_text,
    pairs_table,
    short_name,
    strips_table,
    two_decimals,
    word_values,
    words_table,
)

if TYPE_CHECKING:
    from srpo_ray.words.probe import Study

_MEANINGS = (
    ("difference", "score of “word. caption” minus score of “caption”, per image"),
    ("spread", "standard deviation of the difference, in standard deviations of the plain score"),
    ("axis", "the attribute that the difference correlates with most"),
    ("strength", "spread × size of that correlation"),
    (
        "cleanness",
        "the axis's share of what it and the strongest other attribute explain together: 1 is one axis alone,"
        " 0.5 two alike",
    ),
)
_SCORE = "Score: strength × cleanness. The sign tells whether more or less of the attribute scores higher."
_SETS = (
    "Opposites along one axis, each word used once. Positive is the high end: to steer the other way, swap the lists."
)
_EXTREMES = (
    "What the reward means by a word: the images whose score rises least and most when the word stands before their"
    " caption."
)
_ATTRIBUTES = (
    "Correlation over images between a word's difference and what the images show. Blue is positive, orange negative."
)
_CROSS_TALK = (
    "Correlation between the differences of two words: near +1 the reward takes them for one word, near −1 for"
    " opposites."
)


def words_report(study: "Study", strips: Sequence[tuple[Image, Image]], command: str) -> Report:
    """Build the report on a probe of control words.

    Args:
        study: The results.
        strips: Of the first words, the images that each lowers and raises most.
        command: What the person typed.
    """
    words, pairs = words_table(study), pairs_table(study)
    attributes, cross_talk = _heat_maps(study)
    suggested: list[Part] = [Text(_SETS), Code(word_sets_yaml(study)), pairs]
    sections = [
        Section("Which words the reward perceives", [Text(_SCORE), _score_bars(study)]),
        *([Section("Suggested word sets", suggested)] if study.pairs else []),
        Section("Images with the lowest and the highest difference", [Text(_EXTREMES), strips_table(study, strips)]),
        Section("Words and attributes", [Text(_ATTRIBUTES), attributes]),
        Section("Cross-talk", [Text(_CROSS_TALK), cross_talk]),
        Section("All numbers", [Text(f"Click a column to sort.{_frequency(study)}"), words]),
        Section("What the numbers mean", [Facts(_MEANINGS), Code(command)]),
    ]
    return Report(
        title=f"Words of {study.reward}",
        headline=_headline(study),
        sections=sections,
        subtitle=f"control words of {study.reward} · {study.pictures.source}",
        page="words.html",
        terminal=[words, pairs] if study.pairs else [words],
        files={"words.json": as_dict(study), "words.csv": words},
    )


def _frequency(study: "Study") -> str:
    if study.counts is None:
        return ""
    return (
        f" The column “in prompts” counts the prompts that hold the word, of {study.num_prompts}: words that are rare"
        " in a reward's training text steer weakly."
    )


def _headline(study: "Study") -> str:
    if study.pairs:
        best = study.pairs[0]
        pair = f"{study.words[best.positive]} against {study.words[best.negative]}"
        return f"{study.reward} perceives {study.words[0]} best, and {pair} as a pair"
    return f"{study.reward} perceives {study.words[0]} best; no two of these words are opposites"


def _score_bars(study: "Study") -> Bars:
    largest = max(max(reading.score for reading in study.readings), 1e-9)
    return Bars(
        [
            Bar(word, reading.score / largest, two_decimals(reading.score), note=axis_text(reading))
            for word, reading in zip(study.words, study.readings, strict=True)
        ]
    )


def _heat_maps(study: "Study") -> tuple[Charts, Charts]:
    """Correlations of words with attributes, and of words with words."""
    attributes = list(study.pictures.attributes)
    titles = [short_name(name) + " (pixels)" * (name not in study.pictures.axes) for name in attributes]
    correlations = [[reading.correlations[name] for name in attributes] for reading in study.readings]
    with_attributes = HeatMap("", "Correlation of words with attributes", study.words, titles, correlations)
    with_words = HeatMap("", "Correlation of words with words", study.words, study.words, study.cross_talk)
    return Charts([with_attributes], size="map"), Charts([with_words], size="map")


def word_sets_yaml(study: "Study") -> str:
    """The suggested sets as a run config takes them; empty if no two words are opposites."""
    return dump({"word_sets": study.word_sets}, short_lists=True) if study.pairs else ""


def as_dict(study: "Study") -> dict[str, Any]:
    """Everything but the images and the single scores."""
    return {
        "reward": study.reward,
        "pictures": {"source": study.pictures.source, "count": len(study.pictures.images)},
        "axes": study.pictures.axes,
        "num_prompts": study.num_prompts,
        "words": [word_values(study, index) for index in range(len(study.words))],
        "cross_talk": study.cross_talk,
        "pairs": [
            {
                "positive": study.words[pair.positive],
                "negative": study.words[pair.negative],
                "opposition": pair.opposition,
                "score": pair.reading.score,
                **asdict(pair.reading),
            }
            for pair in study.pairs
        ],
        "word_sets": study.word_sets,
    }

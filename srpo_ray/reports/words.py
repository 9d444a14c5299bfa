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
    from srpo_ray.words.probe import WordProbe

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


def words_report(word_probe: "WordProbe", strips: Sequence[tuple[Image, Image]], command: str) -> Report:
    """Build the report on a probe of control words.

    Args:
        word_probe: The results.
        strips: Of the first words, the images that each lowers and raises most.
        command: What the person typed.
    """
    words, pairs = words_table(word_probe), pairs_table(word_probe)
    attributes, cross_talk = _heat_maps(word_probe)
    suggested: list[Part] = [Text(_SETS), Code(word_sets_yaml(word_probe)), pairs]
    sections = [
        Section("Which words the reward perceives", [Text(_SCORE), _score_bars(word_probe)]),
        *([Section("Suggested word sets", suggested)] if word_probe.pairs else []),
        Section(
            "Images with the lowest and the highest difference", [Text(_EXTREMES), strips_table(word_probe, strips)]
        ),
        Section("Words and attributes", [Text(_ATTRIBUTES), attributes]),
        Section("Cross-talk", [Text(_CROSS_TALK), cross_talk]),
        Section("All numbers", [Text(f"Click a column to sort.{_frequency(word_probe)}"), words]),
        Section("What the numbers mean", [Facts(_MEANINGS), Code(command)]),
    ]
    return Report(
        title=f"Words of {word_probe.reward}",
        headline=_headline(word_probe),
        sections=sections,
        subtitle=f"control words of {word_probe.reward} · {word_probe.probed.source}",
        page="words.html",
        terminal=[words, pairs] if word_probe.pairs else [words],
        files={"words.json": as_dict(word_probe), "words.csv": words},
    )


def _frequency(word_probe: "WordProbe") -> str:
    if word_probe.counts is None:
        return ""
    return (
        f" The column “in prompts” counts the prompts with the word, of {word_probe.num_prompts}: words that are rare"
        " in a reward's training text steer weakly."
    )


def _headline(word_probe: "WordProbe") -> str:
    if word_probe.pairs:
        best = word_probe.pairs[0]
        pair = f"{word_probe.words[best.positive]} against {word_probe.words[best.negative]}"
        return f"{word_probe.reward} perceives {word_probe.words[0]} best, and {pair} as a pair"
    return f"{word_probe.reward} perceives {word_probe.words[0]} best; no two of these words are opposites"


def _score_bars(word_probe: "WordProbe") -> Bars:
    largest = max(max(reading.score for reading in word_probe.readings), 1e-9)
    return Bars(
        [
            Bar(word, reading.score / largest, two_decimals(reading.score), note=axis_text(reading))
            for word, reading in zip(word_probe.words, word_probe.readings, strict=True)
        ]
    )


def _heat_maps(word_probe: "WordProbe") -> tuple[Charts, Charts]:
    """Correlations of words with attributes, and of words with words."""
    attributes = list(word_probe.probed.attributes)
    titles = [short_name(name) + " (pixels)" * (name not in word_probe.probed.axes) for name in attributes]
    correlations = [[reading.correlations[name] for name in attributes] for reading in word_probe.readings]
    with_attributes = HeatMap("", "Correlation of words with attributes", word_probe.words, titles, correlations)
    with_words = HeatMap(
        "", "Correlation of words with words", word_probe.words, word_probe.words, word_probe.cross_talk
    )
    return Charts([with_attributes], size="map"), Charts([with_words], size="map")


def word_sets_yaml(word_probe: "WordProbe") -> str:
    """The suggested sets as a run config takes them; empty if no two words are opposites."""
    return dump({"word_sets": word_probe.word_sets}, short_lists=True) if word_probe.pairs else ""


def as_dict(word_probe: "WordProbe") -> dict[str, Any]:
    """Everything but the images and the single scores."""
    return {
        "reward": word_probe.reward,
        "images": {"source": word_probe.probed.source, "count": len(word_probe.probed.images)},
        "axes": word_probe.probed.axes,
        "num_prompts": word_probe.num_prompts,
        "words": [word_values(word_probe, index) for index in range(len(word_probe.words))],
        "cross_talk": word_probe.cross_talk,
        "pairs": [
            {
                "positive": word_probe.words[pair.positive],
                "negative": word_probe.words[pair.negative],
                "opposition": pair.opposition,
                "score": pair.reading.score,
                **asdict(pair.reading),
            }
            for pair in word_probe.pairs
        ],
        "word_sets": word_probe.word_sets,
    }

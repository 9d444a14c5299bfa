"""The report on control words: which of them a reward model perceives, and how."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from srpo_ray.config.yaml_text import dump
from srpo_ray.reports.charts import HeatMap
from srpo_ray.reports.report import (
    Bar,
    Bars,
    Cell,
    Charts,
    Code,
    Column,
    Facts,
    Image,
    Part,
    Report,
    Row,
    Section,
    Table,
    Text,
)

if TYPE_CHECKING:
    from srpo_ray.words.measure import Pair, Reading
    from srpo_ray.words.probe import Study

_SHOWN_PAIRS = 12
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


def words_report(study: "Study", strips: Sequence[tuple[Image, Image]], command: str) -> Report:
    """Build the report on a probe of control words.

    Args:
        study: The results.
        strips: Of the first words, the images that each lowers and raises most.
        command: What the person typed.
    """
    words, pairs = words_table(study), pairs_table(study)
    attributes, cross_talk = _heat_maps(study)
    frequency = ""
    if study.counts is not None:
        frequency = (
            f" The column “in prompts” counts the prompts that hold the word, of {study.num_prompts}: words that are"
            " rare in a reward's training text steer weakly."
        )
    suggested: list[Part] = [
        Text(
            "Opposites along one axis, each word used once. Positive is the high end: to steer the other way, swap"
            " the lists."
        ),
        Code(word_sets_yaml(study)),
        pairs,
    ]
    score = Text("Score: strength × cleanness. The sign tells whether more or less of the attribute scores higher.")
    extremes = Text(
        "What the reward means by a word: the images whose score rises least and most when the word stands before"
        " their caption."
    )
    with_attributes = Text(
        "Correlation over images between a word's difference and what the images show. Blue is positive, orange"
        " negative."
    )
    with_words = Text(
        "Correlation between the differences of two words: near +1 the reward takes them for one word, near −1 for"
        " opposites."
    )
    sections = [
        Section("Which words the reward perceives", [score, _score_bars(study)]),
        *([Section("Suggested word sets", suggested)] if study.pairs else []),
        Section("Images with the lowest and the highest difference", [extremes, _strips_table(study, strips)]),
        Section("Words and attributes", [with_attributes, attributes]),
        Section("Cross-talk", [with_words, cross_talk]),
        Section("All numbers", [Text(f"Click a column to sort.{frequency}"), words]),
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


def _headline(study: "Study") -> str:
    if study.pairs:
        best = study.pairs[0]
        pair = f"{study.words[best.positive]} against {study.words[best.negative]}"
        return f"{study.reward} perceives {study.words[0]} best, and {pair} as a pair"
    return f"{study.reward} perceives {study.words[0]} best; no two of these words are opposites"


def words_table(study: "Study") -> Table:
    """All words, the best first; the terminal has rounded numbers and the correlations with the axes."""
    counted = ["in_prompts"] * (study.counts is not None)
    axes = study.pictures.axes
    columns = [
        Column("rank"),
        Column("word", numeric=False, width=24),
        Column("score", text=_three),
        Column("axis", numeric=False),
        Column("direction"),
        Column("signed_axis", "axis", numeric=False),
        Column("spread", text=_three),
        Column("strength", text=_three),
        Column("cleanness", text=_three),
        Column("in_prompts", "in prompts"),
        *(Column(name, short_name(name), _correlation) for name in study.pictures.attributes),
    ]
    numbers = ["score", "strength", "cleanness"]
    files = ["rank", "word", "score", "axis", "direction", "spread", "strength", "cleanness", "in_prompts"]
    return Table(
        columns,
        [Row(_word_cells(study, index)) for index in range(len(study.words))],
        head="word",
        title=f"{study.reward} on {study.pictures.source}",
        page=["rank", "word", *numbers, "spread", "signed_axis", *counted],
        terminal=["rank", "word", *numbers, "signed_axis", *axes, *counted],
        file=[*files, *study.pictures.attributes],
        sortable=True,
    )


def _word_cells(study: "Study", index: int) -> dict[str, Any]:
    reading = study.readings[index]
    values = _word_values(study, index)
    correlations = values.pop("correlations")
    return {**values, **correlations, "signed_axis": axis_text(reading)}


def pairs_table(study: "Study") -> Table:
    """The best opposites."""
    columns = [
        Column("pair", numeric=False),
        Column("positive", numeric=False, width=24),
        Column("negative", numeric=False, width=24),
        Column("axis", numeric=False),
        Column("score", text=_two),
        Column("strength", text=_two),
        Column("cleanness", text=_two),
        Column("opposition", "correlation of the two", _correlation),
    ]
    return Table(
        columns,
        [Row(_pair_cells(study, pair)) for pair in study.pairs[:_SHOWN_PAIRS]],
        head="pair",
        title="opposites",
        page=["pair", "axis", "score", "strength", "cleanness", "opposition"],
        terminal=["positive", "negative", "axis", "score", "strength", "cleanness", "opposition"],
    )


def _pair_cells(study: "Study", pair: "Pair") -> dict[str, Any]:
    reading, (positive, negative) = pair.reading, (study.words[pair.positive], study.words[pair.negative])
    numbers = {"score": reading.score, "strength": reading.strength, "cleanness": reading.cleanness}
    names = {"pair": f"{positive} / {negative}", "positive": positive, "negative": negative}
    return {**names, "axis": axis_text(reading), **numbers, "opposition": pair.opposition}


def _score_bars(study: "Study") -> Bars:
    largest = max(max(reading.score for reading in study.readings), 1e-9)
    return Bars(
        [
            Bar(word, reading.score / largest, _two(reading.score), note=axis_text(reading))
            for word, reading in zip(study.words, study.readings, strict=True)
        ]
    )


def _strips_table(study: "Study", strips: Sequence[tuple[Image, Image]]) -> Table:
    columns = [Column(key, numeric=False) for key in ("word", "lowest", "highest")]
    rows = [
        Row({"word": Cell(word, axis_text(reading)), "lowest": lowest, "highest": highest})
        for word, reading, (lowest, highest) in zip(study.words, study.readings, strips, strict=False)
    ]
    return Table(columns, rows, head="word")


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
        "words": [_word_values(study, index) for index in range(len(study.words))],
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


def _word_values(study: "Study", index: int) -> dict[str, Any]:
    reading = study.readings[index]
    count = None if study.counts is None else study.counts[index]
    head = {"rank": index + 1, "word": study.words[index], "score": reading.score}
    return {**head, **asdict(reading), "in_prompts": count}


def short_name(attribute: str) -> str:
    """`truth/detail` -> `detail`, `image/contrast` -> `contrast`."""
    return attribute.rpartition("/")[2]


def axis_text(reading: "Reading") -> str:
    """`+detail`: more of it scores higher; `-detail`: less does."""
    return f"{'+' if reading.direction > 0 else '-'}{short_name(reading.axis)}"


def _two(value: float) -> str:
    return f"{value:.2f}"


def _three(value: float) -> str:
    return f"{value:.3f}"


def _correlation(value: float) -> str:
    return f"{value:+.2f}"

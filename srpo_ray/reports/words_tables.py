"""Tables of control words: all numbers, opposites, and the images that a word raises and lowers most."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from srpo_ray.reports.report import Cell, Column, Image, Row, Table

if TYPE_CHECKING:
    from srpo_ray.words.probe import WordProbe
    from srpo_ray.words.readings import Pair, Reading

_SHOWN_PAIRS = 12


def words_table(word_probe: "WordProbe") -> Table:
    """All words, the best first; the terminal has rounded numbers and the correlations with the axes."""
    counted = ["in_prompts"] * (word_probe.counts is not None)
    axes = word_probe.probed.axes
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
        *(Column(name, short_name(name), _correlation) for name in word_probe.probed.attributes),
    ]
    numbers = ["score", "strength", "cleanness"]
    files = ["rank", "word", "score", "axis", "direction", "spread", "strength", "cleanness", "in_prompts"]
    return Table(
        columns,
        [Row(_word_cells(word_probe, index)) for index in range(len(word_probe.words))],
        head="word",
        title=f"{word_probe.reward} on {word_probe.probed.source}",
        page=["rank", "word", *numbers, "spread", "signed_axis", *counted],
        terminal=["rank", "word", *numbers, "signed_axis", *axes, *counted],
        file=[*files, *word_probe.probed.attributes],
        sortable=True,
    )


def _word_cells(word_probe: "WordProbe", index: int) -> dict[str, Any]:
    reading = word_probe.readings[index]
    values = word_values(word_probe, index)
    correlations = values.pop("correlations")
    return {**values, **correlations, "signed_axis": axis_text(reading)}


def pairs_table(word_probe: "WordProbe") -> Table:
    """The best opposites."""
    columns = [
        Column("pair", numeric=False),
        Column("positive", numeric=False, width=24),
        Column("negative", numeric=False, width=24),
        Column("axis", numeric=False),
        Column("score", text=two_decimals),
        Column("strength", text=two_decimals),
        Column("cleanness", text=two_decimals),
        Column("opposition", "correlation of the two", _correlation),
    ]
    return Table(
        columns,
        [Row(_pair_cells(word_probe, pair)) for pair in word_probe.pairs[:_SHOWN_PAIRS]],
        head="pair",
        title="opposites",
        page=["pair", "axis", "score", "strength", "cleanness", "opposition"],
        terminal=["positive", "negative", "axis", "score", "strength", "cleanness", "opposition"],
    )


def _pair_cells(word_probe: "WordProbe", pair: "Pair") -> dict[str, Any]:
    reading, (positive, negative) = pair.reading, (word_probe.words[pair.positive], word_probe.words[pair.negative])
    numbers = {"score": reading.score, "strength": reading.strength, "cleanness": reading.cleanness}
    names = {"pair": f"{positive} / {negative}", "positive": positive, "negative": negative}
    return {**names, "axis": axis_text(reading), **numbers, "opposition": pair.opposition}


def strips_table(word_probe: "WordProbe", strips: Sequence[tuple[Image, Image]]) -> Table:
    """Of the first words, the images whose score each raises least and most."""
    columns = [Column(key, numeric=False) for key in ("word", "lowest", "highest")]
    rows = [
        Row({"word": Cell(word, axis_text(reading)), "lowest": lowest, "highest": highest})
        for word, reading, (lowest, highest) in zip(word_probe.words, word_probe.readings, strips, strict=False)
    ]
    return Table(columns, rows, head="word")


def word_values(word_probe: "WordProbe", index: int) -> dict[str, Any]:
    """A word's rank, score and reading, as plain values."""
    reading = word_probe.readings[index]
    count = None if word_probe.counts is None else word_probe.counts[index]
    head = {"rank": index + 1, "word": word_probe.words[index], "score": reading.score}
    return {**head, **asdict(reading), "in_prompts": count}


def short_name(attribute: str) -> str:
    """`truth/detail` -> `detail`, `image/contrast` -> `contrast`."""
    return attribute.rpartition("/")[2]


def axis_text(reading: "Reading") -> str:
    """`+detail`: more of it scores higher; `-detail`: less does."""
    return f"{'+' if reading.direction > 0 else '-'}{short_name(reading.axis)}"


def two_decimals(value: float) -> str:
    """`2.54`."""
    return f"{value:.2f}"


def _three(value: float) -> str:
    return f"{value:.3f}"


def _correlation(value: float) -> str:
    return f"{value:+.2f}"

"""A study for people and programs: terminal table, words.json, words.csv, and one self-contained HTML page."""

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from srpo_ray.config.yaml_text import dump
from srpo_ray.files import write_text
from srpo_ray.reports.html import render
from srpo_ray.reports.words_charts import heat_map, strip
from srpo_ray.words.probe import Study

_PICTURED_WORDS = 6
_PICTURES_PER_SIDE = 6
_SHOWN_PAIRS = 12


def write_study(folder: Path, study: Study, command: str) -> Path:
    """Write `words.json`, `words.csv` and `words.html` and return the path of the page.

    Args:
        folder: Where to write; made if needed.
        study: What the probe found.
        command: What the person typed, for the page.

    Raises:
        ValueError: If the folder cannot be written.
    """
    try:
        write_text(folder / "words.json", json.dumps(as_dict(study), indent=2) + "\n")
        write_text(folder / "words.csv", as_csv(study))
        return write_text(folder / "words.html", render("words.html", **_page(study, command)))
    except OSError as error:
        raise ValueError(
            f"--out: expected a folder that can be written, got {folder} ({error}); name another"
        ) from error


def words_table(study: Study) -> Table:
    """All words for the terminal, the best first."""
    title = f"{study.reward} on {study.pictures.source}"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("#", justify="right", no_wrap=True, min_width=2)
    table.add_column("word", no_wrap=True, min_width=9, max_width=24)
    counted = ["in prompts"] * (study.counts is not None)
    for name in ("score", "strength", "cleanness", "axis", *map(short_name, study.pictures.axes), *counted):
        table.add_column(name, justify="left" if name == "axis" else "right", no_wrap=True)
    for index, (word, reading) in enumerate(zip(study.words, study.readings, strict=True)):
        numbers = [f"{value:.2f}" for value in (reading.score, reading.strength, reading.cleanness)]
        correlations = [f"{reading.correlations[axis]:+.2f}" for axis in study.pictures.axes]
        count = [] if study.counts is None else [str(study.counts[index])]
        table.add_row(str(index + 1), word, *numbers, axis_text(reading.direction, reading.axis), *correlations, *count)
    return table


def pairs_table(study: Study) -> Table:
    """The best opposites for the terminal."""
    table = Table(title="opposites", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("positive", "negative", "axis"):
        table.add_column(name)
    for name in ("score", "strength", "cleanness", "opposition"):
        table.add_column(name, justify="right")
    for pair in study.pairs[:_SHOWN_PAIRS]:
        reading = pair.reading
        numbers = (reading.score, reading.strength, reading.cleanness, pair.opposition)
        names = (study.words[pair.positive], study.words[pair.negative], axis_text(reading.direction, reading.axis))
        table.add_row(*names, *(f"{value:.2f}" for value in numbers))
    return table


def word_sets_yaml(study: Study) -> str:
    """The suggested sets as a run config takes them; empty if no two words are opposites."""
    return dump({"word_sets": study.word_sets}, short_lists=True) if study.pairs else ""


def as_dict(study: Study) -> dict[str, Any]:
    """Everything but the pictures and the single scores."""
    return {
        "reward": study.reward,
        "pictures": {"source": study.pictures.source, "count": len(study.pictures.images)},
        "axes": study.pictures.axes,
        "num_prompts": study.num_prompts,
        "words": [_word_dict(study, index) for index in range(len(study.words))],
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


def _word_dict(study: Study, index: int) -> dict[str, Any]:
    reading = study.readings[index]
    count = None if study.counts is None else study.counts[index]
    return {
        "rank": index + 1,
        "word": study.words[index],
        "score": reading.score,
        **asdict(reading),
        "in_prompts": count,
    }


def as_csv(study: Study) -> str:
    """One line per word: rank, score and its parts, the correlation with every attribute."""
    file = io.StringIO(newline="")
    rows = [_word_dict(study, index) for index in range(len(study.words))]
    flat = [{**{k: v for k, v in row.items() if k != "correlations"}, **row["correlations"]} for row in rows]
    writer = csv.DictWriter(file, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return file.getvalue()


def short_name(attribute: str) -> str:
    """`truth/detail` -> `detail`, `image/contrast` -> `contrast`."""
    return attribute.rpartition("/")[2]


def axis_text(direction: int, axis: str) -> str:
    """`+detail`: more of it scores higher; `-detail`: less does."""
    return f"{'+' if direction > 0 else '-'}{short_name(axis)}"


def _page(study: Study, command: str) -> dict[str, Any]:
    attributes = list(study.pictures.attributes)
    titles = [name if name in study.pictures.axes else f"{short_name(name)} (pixels)" for name in attributes]
    titles = [short_name(name) for name in titles]
    correlations = [[reading.correlations[name] for name in attributes] for reading in study.readings]
    return {
        "study": study,
        "lines": [
            {"word": word, "reading": reading, "axis": axis_text(reading.direction, reading.axis)}
            for word, reading in zip(study.words, study.readings, strict=True)
        ],
        "largest": max(max(reading.score for reading in study.readings), 1e-9),
        "headline": _headline(study),
        "attributes": heat_map(study.words, titles, correlations, "Correlation of words with attributes"),
        "cross_talk": heat_map(study.words, study.words, study.cross_talk, "Correlation of words with words"),
        "rows": [_picture_row(study, index) for index in range(min(_PICTURED_WORDS, len(study.words)))],
        "pairs": [
            {
                "positive": study.words[pair.positive],
                "negative": study.words[pair.negative],
                "pair": pair,
                "axis": axis_text(pair.reading.direction, pair.reading.axis),
            }
            for pair in study.pairs[:_SHOWN_PAIRS]
        ],
        "yaml": word_sets_yaml(study),
        "command": command,
    }


def _headline(study: Study) -> str:
    if study.pairs:
        best = study.pairs[0]
        pair = f"{study.words[best.positive]} against {study.words[best.negative]}"
        return f"{study.reward} perceives {study.words[0]} best, and {pair} as a pair"
    return f"{study.reward} perceives {study.words[0]} best; no two of these words are opposites"


def _picture_row(study: Study, index: int) -> dict[str, Any]:
    order = study.differences[index].argsort()
    per_side = min(_PICTURES_PER_SIDE, len(order) // 2)
    return {
        "word": study.words[index],
        "axis": axis_text(study.readings[index].direction, study.readings[index].axis),
        "lowest": strip(study.pictures.images[order[:per_side]]),
        "highest": strip(study.pictures.images[order[-per_side:]]),
    }

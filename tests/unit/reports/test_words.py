import csv
import json
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from srpo_ray.config import apply, load_run
from srpo_ray.reports.files import write_report
from srpo_ray.reports.grids import word_strips
from srpo_ray.reports.report import Report
from srpo_ray.reports.terminal import terminal_table
from srpo_ray.reports.words import word_sets_yaml, words_report
from srpo_ray.words.probe import WordProbe
from tests.conftest import SMALL_WORLD


@pytest.fixture(scope="session")
def report(word_study: WordProbe) -> Report:
    return words_report(word_study, word_strips(word_study), "srpo-ray words --words '<b>'")


def test_files_hold_every_word_in_order(tmp_path: Path, word_study: WordProbe, report: Report) -> None:
    write_report(tmp_path / "out", report)
    data = json.loads((tmp_path / "out" / "words.json").read_text())
    lines = list(csv.DictReader((tmp_path / "out" / "words.csv").open()))
    assert [row["word"] for row in data["words"]] == word_study.words == [line["word"] for line in lines]
    assert float(lines[0]["strength"]) == data["words"][0]["strength"] == word_study.readings[0].strength
    assert float(lines[0]["truth/detail"]) == data["words"][0]["correlations"]["truth/detail"]
    assert [row["in_prompts"] for row in data["words"]] == word_study.counts


def test_page_needs_no_other_file_and_shows_every_word(tmp_path: Path, word_study: WordProbe, report: Report) -> None:
    page = write_report(tmp_path, report).read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "://" not in page
    assert "&lt;b&gt;" in page
    for word in word_study.words:
        assert f">{word}</text>" in page
    assert page.count("data:image/png;base64,") == 2 * len(word_study.words)


def test_terminal_tables_fit_and_name_all_words_as_they_are(word_study: WordProbe, report: Report) -> None:
    console = Console(width=120)
    with console.capture() as captured:
        for table in report.terminal:
            console.print(terminal_table(table))
    text = captured.get()
    assert all(word in text for word in word_study.words), "square brackets of a word are no markup"
    assert "detailed  flat" in text
    assert "+detail" in text
    assert "…" not in text


def test_suggested_sets_are_a_config_that_loads(word_study: WordProbe) -> None:
    sets = yaml.safe_load(word_sets_yaml(word_study))["word_sets"]
    config = apply(load_run([SMALL_WORLD]), {"word_sets": sets, "algorithm.control_words": "detail"})
    assert config.trained_words is not None
    assert "flat" in config.trained_words.negative


def test_strips_end_with_the_images_that_a_word_lowers_and_raises_most(word_study: WordProbe) -> None:
    for (lowest, highest), word in zip(word_strips(word_study), word_study.words, strict=True):
        assert lowest.description == f"Images that {word} lowers most"
        assert lowest.png != highest.png
        assert lowest.png.startswith(b"\x89PNG")


def test_folder_that_cannot_be_written_is_named(report: Report) -> None:
    with pytest.raises(ValueError, match=r"a folder where the report can be written, got /proc/words"):
        write_report(Path("/proc/words"), report)

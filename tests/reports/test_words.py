import csv
import json
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from srpo_ray.config import apply, load_run
from srpo_ray.reports.words import pairs_table, word_sets_yaml, words_table, write_study
from srpo_ray.words.probe import Study
from tests.conftest import SMALL_WORLD


def test_files_hold_every_word_in_order(tmp_path: Path, small_world_study: Study) -> None:
    write_study(tmp_path / "out", small_world_study, "srpo-ray words")
    data = json.loads((tmp_path / "out" / "words.json").read_text())
    lines = list(csv.DictReader((tmp_path / "out" / "words.csv").open()))
    assert [row["word"] for row in data["words"]] == small_world_study.words == [line["word"] for line in lines]
    assert float(lines[0]["strength"]) == data["words"][0]["strength"] == small_world_study.readings[0].strength
    assert float(lines[0]["truth/detail"]) == data["words"][0]["correlations"]["truth/detail"]
    assert [row["in_prompts"] for row in data["words"]] == small_world_study.counts


def test_page_needs_no_other_file_and_shows_every_word(tmp_path: Path, small_world_study: Study) -> None:
    page = write_study(tmp_path, small_world_study, "srpo-ray words --words '<b>'").read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "://" not in page
    assert "&lt;b&gt;" in page
    for word in small_world_study.words:
        assert f">{word}</text>" in page
    assert page.count("data:image/png;base64,") == 12


def test_terminal_tables_fit_and_name_all_words(small_world_study: Study) -> None:
    console = Console(width=120, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(words_table(small_world_study))
        console.print(pairs_table(small_world_study))
    text = captured.get()
    assert all(word in text for word in small_world_study.words)
    assert "+detail" in text
    assert "…" not in text


def test_suggested_sets_are_a_config_that_loads(small_world_study: Study) -> None:
    sets = yaml.safe_load(word_sets_yaml(small_world_study))["word_sets"]
    config = apply(load_run([SMALL_WORLD]), {"word_sets": sets, "algorithm.control_words": "detail"})
    assert config.control_words is not None
    assert "flat" in config.control_words.negative


def test_a_folder_that_cannot_be_written_is_named(small_world_study: Study) -> None:
    with pytest.raises(ValueError, match=r"--out: .*/proc/words"):
        write_study(Path("/proc/words"), small_world_study, "")

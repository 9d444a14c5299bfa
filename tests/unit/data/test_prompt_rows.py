"""Further columns of prompt files: conditioning, positive words and negative words."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from srpo_ray.config.algorithms.control_words import NO_WORDS, ControlWords, OwnWords
from srpo_ray.data.prompt_rows import PromptRows
from srpo_ray.data.prompts import PromptFile, read_prompts

CAT = {"prompt": "a cat", "conditioning": "A fluffy cat.", "positive_words": "Real,Oil paint", "negative_words": "Flat"}
DOG = {"prompt": "a dog", "conditioning": None, "positive_words": None, "negative_words": None}
FORMATS = ("jsonl", "json", "csv", "tsv", "parquet")


def table(rows: list[dict[str, Any]], delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write(folder: Path, kind: str, rows: list[dict[str, Any]]) -> str:
    """A prompt file of one of the formats."""
    path = folder / f"prompts.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif kind in ("csv", "tsv"):
        path.write_text(table(rows, "," if kind == "csv" else "\t"))
    else:
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if kind == "jsonl" else f"[{','.join(lines)}]")
    return str(path)


def refusal(folder: Path, kind: str, rows: list[dict[str, Any]]) -> str:
    path = write(folder, kind, rows)
    with pytest.raises(ValueError, match=r"^data\.prompts: ") as error:
        read_prompts(path)
    assert path in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_has_the_three_columns(tmp_path: Path, kind: str) -> None:
    found = read_prompts(write(tmp_path, kind, [CAT, DOG]))
    words = OwnWords(("Real", "Oil paint"), ("Flat",))
    assert found.rows == PromptRows(["a cat", "a dog"], ["A fluffy cat.", "a dog"], [words, NO_WORDS])
    assert found.note is not None
    assert found.note.endswith(": 2 prompts, conditioning of 1, positive_words of 1, negative_words of 1")


@pytest.mark.parametrize("kind", FORMATS)
def test_file_without_the_columns_has_plain_rows_and_no_note(tmp_path: Path, kind: str) -> None:
    found = read_prompts(write(tmp_path, kind, [{"id": 1, "prompt": "a cat"}, {"id": 2, "prompt": "a dog"}]))
    assert found.rows == PromptRows.plain(["a cat", "a dog"])
    assert (found.note, found.rows.keys, found.rows.rewritten, found.rows.has_words) == (None, None, False, False)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_words_of_a_list_may_have_commas(tmp_path: Path, kind: str) -> None:
    found = read_prompts(write(tmp_path, kind, [{"prompt": "a cat", "positive_words": ["Real, sharp", " Detail "]}]))
    assert found.rows.words == [OwnWords(("Real, sharp", "Detail"))]


@pytest.mark.parametrize("blank", [None, "", "  \t", []])
def test_blank_value_is_no_value_and_is_counted(tmp_path: Path, blank: Any) -> None:
    row = {"prompt": "a cat", "positive_words": blank, "conditioning": "" if blank == [] else blank}
    found = read_prompts(write(tmp_path, "jsonl", [row]))
    assert found.rows == PromptRows.plain(["a cat"])
    assert found.note is not None
    assert found.note.endswith("1 prompts, conditioning of 0, positive_words of 0")


def test_names_of_columns_ignore_case_and_blanks_around_them(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("Prompt, Conditioning ,POSITIVE_WORDS\na cat,b,Real\n")
    assert read_prompts(str(tmp_path / "p.csv")).rows == PromptRows(["a cat"], ["b"], [OwnWords(("Real",))])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"positive_words": "Real,,Detail"}, "an empty word in positive_words: 'Real,,Detail'"),
        ({"negative_words": ["Flat", " "]}, "an empty word in negative_words: ['Flat', ' ']"),
        ({"negative_words": ","}, "an empty word in negative_words"),
        ({"negative_words": "Flat, ..."}, "an empty word in negative_words"),
        ({"positive_words": 3}, "no text in positive_words: 3"),
        ({"positive_words": ["Real", 3]}, "no text in positive_words: 3"),
        ({"positive_words": {"a": 1}}, "no text in positive_words"),
        ({"conditioning": ["a"]}, "no text in conditioning: ['a']"),
        ({"conditioning": "a\u0007"}, "the character U+0007, which a text cannot contain"),
        ({"positive_words": "Flat,Real", "negative_words": "flat."}, "'flat' in positive_words and in negative_words"),
        ({"prompt": "", "conditioning": "A cat"}, "conditioning without a prompt"),
        ({"prompt": None, "negative_words": "Flat"}, "negative_words without a prompt"),
        ({"conditioning": "x", "Conditioning": "y"}, "expected one conditioning, got 2 of that name"),
    ],
)
def test_unusable_value_is_refused_with_its_entry(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    said = refusal(tmp_path, "jsonl", [DOG, {"prompt": "a cat", **row}])
    assert "got 1 of 2 without: entry 2 (" in said
    assert reason in said


def test_repeated_column_of_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,positive_words,Positive_Words\na cat,Real,Real\n")
    with pytest.raises(ValueError, match="expected one positive_words, got 2 of that name"):
        read_prompts(str(tmp_path / "p.csv"))


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [("conditioning", 1, "texts in"), ("conditioning", ["a"], "texts in"), ("negative_words", 1, "texts or lists of")],
)
def test_column_of_another_type_in_parquet_is_refused(tmp_path: Path, column: str, value: Any, expected: str) -> None:
    said = refusal(tmp_path, "parquet", [{"prompt": "a cat", column: value}])
    assert f"expected {expected}" in said
    assert f"the column '{column}'" in said


def test_column_of_prompts_that_a_user_names_is_not_read_twice(tmp_path: Path) -> None:
    path = write(tmp_path, "csv", [CAT])
    found = read_prompts(path, columns=("conditioning",))
    assert found.rows == PromptRows(["A fluffy cat."], ["A fluffy cat."], [OwnWords(("Real", "Oil paint"), ("Flat",))])


def test_rows_are_repeated_only_if_all_their_texts_are_equal() -> None:
    words = OwnWords(("Real",))
    rows = PromptRows(["a", "a", "a", "a"], ["a", "b", "a", "b"], [NO_WORDS, NO_WORDS, words, NO_WORDS])
    assert PromptFile("p", rows).repeated == 1
    assert PromptFile("p", rows).note == "p: 4 prompts, 1 repeated prompts kept"
    assert rows.keys is not None
    assert len(set(rows.keys)) == 3
    assert rows.keys[0] == "a"


def test_own_words_come_before_those_of_the_set_on_each_side() -> None:
    words = ControlWords(positive=("Real",), negative=("Flat",))
    own = [NO_WORDS, OwnWords(("Detail",)), OwnWords((), ("Oil", "Anime"))]
    found = PromptRows(["a"] * 3, ["a"] * 3, own).words_over(words)
    assert found == [
        words,
        ControlWords(positive=("Detail",), negative=("Flat",)),
        ControlWords(positive=("Real",), negative=("Oil", "Anime")),
    ]
    assert PromptRows.plain(["a"]).words_over(words) is None
    assert PromptRows(["a"], ["a"], [own[1]]).words_over(None) is None

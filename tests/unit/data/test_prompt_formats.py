import codecs
import csv
import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from srpo_ray.data.prompts import caption_of, load_prompts, read_prompts
from srpo_ray.data.text_files import TextFileError


def save(folder: Path, name: str, content: bytes | str | pyarrow.Table) -> str:
    path = folder / name
    if isinstance(content, pyarrow.Table):
        pyarrow.parquet.write_table(content, path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def refusal(folder: Path, name: str, content: bytes | str | pyarrow.Table) -> str:
    """Message of the refusal of a file; it names the key and the file."""
    path = save(folder, name, content)
    with pytest.raises(ValueError, match=r"^data\.prompts: ") as error:
        load_prompts(path)
    assert path in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF32_BE])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "a cat\r\nein Käfer\r\n"),
        ("p.json", '["a cat",\r\n "ein Käfer"]'),
        ("p.jsonl", '"a cat"\r\n"ein Käfer"'),
        ("p.csv", 'prompt,id\r\na cat,1\r\n"ein Käfer",2\r\n'),
        ("p.tsv", "id\tprompt\r\n1\ta cat\r\n2\tein Käfer\r\n"),
    ],
)
def test_every_text_format_is_read_in_every_marked_encoding(tmp_path: Path, mark: bytes, name: str, text: str) -> None:
    encoding = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le"}.get(mark, "utf-32-be")
    assert load_prompts(save(tmp_path, name, mark + text.encode(encoding))) == ["a cat", "ein Käfer"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("p.txt", "a cat\n"), ("p.json", '["a cat"]'), ("p.jsonl", '"a cat"'), ("p.csv", "prompt\na cat\n")],
)
def test_every_text_format_is_refused_in_utf_16_without_a_mark(tmp_path: Path, name: str, text: str) -> None:
    assert "save the file as UTF-8" in refusal(tmp_path, name, text.encode("utf-16-le"))


@pytest.mark.parametrize(
    ("name", "text"),
    [("p.txt", "a cat\ra dog\r"), ("p.jsonl", '"a cat"\r"a dog"\r'), ("p.csv", "prompt\ra cat\ra dog\r")],
)
def test_carriage_returns_alone_end_lines(tmp_path: Path, name: str, text: str) -> None:
    assert load_prompts(save(tmp_path, name, text)) == ["a cat", "a dog"]


def test_byte_order_marks_of_joined_files_stay_out_of_the_prompts(tmp_path: Path) -> None:
    assert load_prompts(save(tmp_path, "p.txt", "\ufeffa cat\n\ufeff a dog\n\ufeff\n")) == ["a cat", "a dog"]
    assert load_prompts(save(tmp_path, "p.jsonl", '\ufeff"a cat"\n\ufeff"a dog"')) == ["a cat", "a dog"]
    assert load_prompts(save(tmp_path, "p.csv", "\ufeff\ufeffprompt,id\na cat,1\n")) == ["a cat"]


@pytest.mark.parametrize("character", ["\0", "\x07", "\x1b", "\x7f", "\x9b"])
def test_control_characters_that_are_no_white_space_are_refused_by_their_entry(tmp_path: Path, character: str) -> None:
    text = json.dumps(["a cat", f"a {character}dog"])
    assert f"entry 2 (the character U+{ord(character):04X}," in refusal(tmp_path, "p.json", text)
    table = pyarrow.table({"prompt": ["a cat", f"a {character}dog"]})
    message = refusal(tmp_path, "p.parquet", table)
    assert f"entry 2 (the character U+{ord(character):04X}," in message
    assert character not in message
    with pytest.raises(TextFileError, match=r"the character U\+"):
        caption_of(f"a {character}dog")


def test_white_space_inside_of_a_prompt_is_kept(tmp_path: Path) -> None:
    prompt = "one\ttwo\nthree\x0bfour\x0cfive\u2028six"
    for name, text in (("p.json", json.dumps([f" {prompt}\n"])), ("p.csv", f'prompt\n" {prompt}\n"\n')):
        assert load_prompts(save(tmp_path, name, text)) == [prompt]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("caption, prompt", "wrong,right"),
        ("id,\tPROMPT ", "1,right"),
        ("Prompt", "right"),
        ("caption,Caption,prompt", "x,x,right"),
        ("id,id,text", "x,x,right"),
    ],
)
def test_blanks_and_case_of_a_header_do_not_count(tmp_path: Path, header: str, row: str) -> None:
    assert load_prompts(save(tmp_path, "p.csv", f"{header}\n{row}\n")) == ["right"]
    table = pyarrow.table([[field] for field in row.split(",")], names=header.split(","))
    assert load_prompts(save(tmp_path, "p.parquet", table)) == ["right"]


def test_quotes_may_follow_a_delimiter_and_blanks(tmp_path: Path) -> None:
    assert load_prompts(save(tmp_path, "p.csv", 'id, "prompt"\n1, "a cat, sitting"\n')) == ["a cat, sitting"]


def test_two_columns_or_keys_of_prompts_are_refused(tmp_path: Path) -> None:
    assert "expected one prompt, got 2 of that name: 'Prompt', 'prompt'" in refusal(
        tmp_path, "p.csv", "Prompt, prompt\nx,y\n"
    )
    table = pyarrow.table([["x"], ["y"]], names=["text", "text"])
    assert "expected one text, got 2" in refusal(tmp_path, "p.parquet", table)
    for twice in ('{"prompt": "x", "prompt": "y"}', '{"Prompt": "x", "prompt": "y"}'):
        assert "entry 2 (expected one prompt, got 2" in refusal(tmp_path, "p.jsonl", f'"a cat"\n{twice}\n')
        assert "entry 1 (expected one prompt, got 2" in refusal(tmp_path, "p.json", f"[{twice}]")
    with pytest.raises(TextFileError, match="Prompt"):
        caption_of({"Prompt": "x", "prompt": "y"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "prompt;id\na cat;1\n"),
        ("p.csv", "prompt\tid\na cat\t1\n"),
        ("p.tsv", "prompt,id\na cat,1\n"),
        ("p.csv", "sep=;\nprompt;id\na cat;1\n"),
        ("p.csv", "a cat\na dog\n"),
        ("p.parquet", pyarrow.table({"words": ["a cat"]})),
    ],
)
def test_table_without_a_column_of_prompts_is_refused_with_its_columns(
    tmp_path: Path, name: str, text: str | pyarrow.Table
) -> None:
    assert "expected a column prompt, caption or text, got '" in refusal(tmp_path, name, text)


def test_unclosed_quote_is_refused_with_the_line_of_its_row(tmp_path: Path) -> None:
    rows = "".join(f"{number},a dog\n" for number in range(50))
    message = refusal(tmp_path, "p.csv", f'id,prompt\n1,"a\ncat"\n2,"a dog\n{rows}')
    assert "the row that begins on line 4" in message


def test_rows_of_another_length_are_refused_with_their_line(tmp_path: Path) -> None:
    message = refusal(tmp_path, "p.csv", 'id,prompt\n1,"a\ncat"\n2,a cat, sitting\n3\n')
    assert "got 2 of 3 without: entry 2 (3 fields under 2 columns on line 4" in message
    assert "entry 3 (1 fields under 2 columns on line 5" in message


def test_blank_rows_of_a_table_are_empty_entries(tmp_path: Path) -> None:
    found = read_prompts(save(tmp_path, "p.csv", "\n\nid,prompt\n1,a cat\n \n,\n\n"))
    assert (found.prompts, found.empty) == (["a cat"], 3)


@pytest.mark.parametrize("text", ["", "prompt\n", "prompt", "\n\n"])
def test_table_without_rows_is_refused(tmp_path: Path, text: str) -> None:
    for name in ("p.csv", "p.tsv"):
        assert "expected at least one prompt" in refusal(tmp_path, name, text)


def test_field_beyond_the_limit_of_csv_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, "p.csv", f"prompt\na cat\n{'x' * (csv.field_size_limit() + 1)}\n")
    assert "the row that begins on line 3: field larger than field limit" in message


@pytest.mark.parametrize(
    "entry",
    [
        "NaN",
        "Infinity",
        "null",
        "true",
        '{"prompt": {"prompt": "a"}}',
        '{"prompt": ["a"]}',
        '{"prompt": NaN}',
        '"\\ud800"',
        '{"prompt": "\\udc00 a"}',
        '{"\\ud800": "a"}',
        "[" * 700 + "]" * 700,
        f"1{'0' * 4000}",
    ],
)
def test_json_values_that_are_no_texts_are_refused_by_their_entry(tmp_path: Path, entry: str) -> None:
    for name, text in (("p.json", f'["a cat", {entry}]'), ("p.jsonl", f'"a cat"\n{entry}\n')):
        message = refusal(tmp_path, name, text)
        assert "entry 2 (" in message
        assert len(message.encode()) < 1000


def test_json_line_that_python_cannot_represent_is_refused_by_its_entry(tmp_path: Path) -> None:
    for line in ("[" * 100_000, "9" * 5000):
        assert "got 1 of 2 without: entry 2 (" in refusal(tmp_path, "p.jsonl", f'"a cat"\n{line}\n')
        refusal(tmp_path, "p.json", f"[{line}]")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pyarrow.array([1, 2]), "int64"),
        (pyarrow.array([b"a", b"b"]), "binary"),
        (pyarrow.array([["a"], ["b"]]), "list<"),
        (pyarrow.array([{"prompt": "a"}, {"prompt": "b"}]), "struct<"),
        (pyarrow.array([True, None]), "bool"),
    ],
)
def test_parquet_column_of_another_type_is_refused_with_its_type(
    tmp_path: Path, values: pyarrow.Array, kind: str
) -> None:
    message = refusal(tmp_path, "p.parquet", pyarrow.table({"prompt": values}))
    assert f"expected texts in the column 'prompt', got values of type {kind}" in message


def test_every_text_type_of_parquet_is_read_and_its_nulls_are_counted(tmp_path: Path) -> None:
    texts = pyarrow.array(["a cat", None, "a cat", " "])
    for values in (
        texts,
        texts.cast(pyarrow.large_string()),
        texts.cast(pyarrow.string_view()),
        texts.dictionary_encode(),
    ):
        found = read_prompts(save(tmp_path, "p.parquet", pyarrow.table({"prompt": values})))
        assert (found.prompts, found.empty, found.repeated) == (["a cat", "a cat"], 2, 1)


def test_parquet_file_in_a_folder_that_is_named_like_a_partition_is_read(tmp_path: Path) -> None:
    (tmp_path / "prompt=wrong").mkdir()
    path = save(tmp_path / "prompt=wrong", "p.parquet", pyarrow.table({"prompt": ["right"]}))
    assert load_prompts(path) == ["right"]


def test_damaged_pages_of_parquet_are_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    table = pyarrow.table({"prompt": [f"a cat number {number}" for number in range(200)]})
    pyarrow.parquet.write_table(table, file, compression="none", use_dictionary=False, write_page_checksum=True)
    whole = file.getvalue()
    place = whole.index(b"number 150")
    refusal(tmp_path, "p.parquet", whole[:place] + b"N" + whole[place + 1 :])
    pyarrow.parquet.write_table(table, file := io.BytesIO(), compression="none", use_dictionary=False)
    place = file.getvalue().index(b"number 150")
    refusal(tmp_path, "p.parquet", file.getvalue()[:place] + b"\xff" + file.getvalue()[place + 1 :])

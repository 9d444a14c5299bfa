"""Public sets with two captions for each pair, and with labelled images: rows, left out rows, the converted file."""

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from srpo_ray.cli import main
from srpo_ray.data.pair_files import convert
from srpo_ray.data.pair_rows import Label, Pair, Picture
from srpo_ray.data.pair_sets import PAIR_SETS, read_set
from srpo_ray.data.pairs import load_judged
from tests.helpers.red_jpeg import jpeg

DOUBLE, KTO = PAIR_SETS["pick_double_caption"], PAIR_SETS["diffusion_kto"]


def table(path: Path, *rows: dict[str, Any]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def double(first: int, second: int, label: float = 1.0, **more: object) -> dict[str, Any]:
    """A row with the columns that the authors' code reads."""
    return {
        "jpg_0": jpeg(first),
        "jpg_1": jpeg(second),
        "label_0": label,
        "label_1": 1 - label,
        "caption_0": f"{first} red",
        "caption_1": f"{second} red",
        **more,
    }


def test_each_image_of_pick_double_caption_has_its_own_caption(tmp_path: Path) -> None:
    file = table(tmp_path / "a.parquet", double(10, 120), double(10, 240, 0.0))
    found = convert(DOUBLE, [file], tmp_path / "out")
    judged = load_judged(str(found.path), "pairs", own_captions=True)
    assert [(row.prompt, row.other_prompt) for row in judged.rows] == [("10 red", "120 red"), ("240 red", "10 red")]
    # Each caption states the colour of its image.
    reds = (judged.images.load([0, 1, 2], 16)[:, 0, 0, 0] * 255).tolist()
    for row in judged.rows:
        for index, caption in zip(row.images, (row.prompt, row.other_prompt), strict=True):
            assert reds[index] == pytest.approx(int(str(caption).split()[0]), abs=2)
    assert "each image with a caption of its own (train with algorithm.captions=own)" in str(found)


def test_rows_of_pick_double_caption_without_two_captions_or_a_label_are_counted(tmp_path: Path) -> None:
    rows = [
        double(10, 20, caption_0=None),
        double(10, 20, caption_1=None),
        double(10, 20, caption_1=" "),
        double(10, 20, 0.5),
        double(10, 20, label_0=None),
        double(10, 10),
        double(10, 20, has_label=False),
        double(10, 20, image_0_uid="u", image_1_uid="u"),
        double(10, 20, 0.0, image_0_uid="u", image_1_uid="w", user_id=3),
        double(30, 40, has_label=True, are_different=True),
    ]
    left_out: Counter[str] = Counter()
    pairs = list(read_set(DOUBLE, [table(tmp_path / "a.parquet", *rows_with_all(rows))], left_out))
    assert [(pair.prompt, pair.other_prompt) for pair in pairs if isinstance(pair, Pair)] == [
        ("20 red", "10 red"),
        ("30 red", "40 red"),
    ]
    assert [[image.name for image in pair.images] for pair in pairs] == [["w", "u"], [None, None]]
    assert left_out == {"without a caption": 3, "ties": 1, "without a label": 2, "with the same image twice": 2}


def rows_with_all(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the same keys, as a table has them."""
    names = {name for row in rows for name in row}
    return [{name: row.get(name) for name in names} for row in rows]


def test_pairs_repeat_each_other_by_both_captions(tmp_path: Path) -> None:
    rows = [double(10, 20), double(10, 20), double(10, 20, caption_1="another"), double(10, 20, 0.0)]
    found = convert(DOUBLE, [table(tmp_path / "a.parquet", *rows)], tmp_path / "out")
    counts = "1 repeat an earlier row, 3 contradict another row"
    assert f"4 pairs of 2 images, {counts}" in str(found)
    assert counts in str(load_judged(str(found.path), "pairs", own_captions=True).note)


def test_table_without_two_captions_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {key: value for key, value in double(10, 20).items() if key != "caption_1"}
    file = table(tmp_path / "a.parquet", row)
    assert main(["pairs", str(file), "--set", "pick_double_caption", "--to", str(tmp_path / "out")]) == 2
    assert "expected Pick-Double-Caption" in (error := capsys.readouterr().err)
    assert "got a table without caption_1; name another file" in error


def csv_file(path: Path, text: str) -> Path:
    (path / "train").mkdir(exist_ok=True)
    for red in (10, 120, 240):
        (path / "train" / f"{red}.jpg").write_bytes(jpeg(red))
    file = path / "train_processed_v3.csv"
    file.write_text(text, encoding="utf-8", newline="")
    return file


@pytest.mark.parametrize("columns", ["file_name,caption,split", "file_path,caption,label"], ids=["code", "readme"])
def test_labels_of_diffusion_kto_like_winners_and_intersections(tmp_path: Path, columns: str) -> None:
    rows = 'train/10.jpg,"a circle, ""red""",exclusive_win\ntrain/120.jpg,"two\nlines",exclusive_lose\n'
    file = csv_file(
        tmp_path, f",{columns}\n0,{rows.replace('train/120', '1,train/120')}2,train/240.jpg,dark,intersections\n"
    )
    found = convert(KTO, [file], tmp_path / "deep" / "out")
    assert found.path.name == "labels.jsonl"
    command = "grep -v '\"mixed\": true' labels.jsonl"
    assert str(found).endswith(f"3 labels of 3 images, 2 liked, 1 from intersections (leave them out with {command})")
    assert sorted(path.name for path in found.path.parent.iterdir()) == ["labels.jsonl"]
    judged = load_judged(str(found.path), "labels")
    assert judged.labels.tolist() == [[1.0], [-1.0], [1.0]]
    assert judged.captions == ['a circle, "red"', "two\nlines", "dark"]
    lines = found.path.read_text().splitlines(keepends=True)
    kept = subprocess.run(command, shell=True, cwd=found.path.parent, capture_output=True, text=True, check=True)
    assert kept.stdout == "".join(lines[:2])
    reds = (judged.images.load([0, 1, 2], 16)[:, 0, 0, 0] * 255).tolist()
    assert reds == pytest.approx([10, 120, 240], abs=2)


def test_columns_of_the_code_come_before_those_of_the_readme_behind_a_byte_order_mark(tmp_path: Path) -> None:
    text = (
        "\ufefffile_name,caption,split,file_path,label\ntrain/10.jpg,red,exclusive_lose,train/120.jpg,exclusive_win\n"
    )
    labels = [each for each in read_set(KTO, [csv_file(tmp_path, text)], Counter()) if isinstance(each, Label)]
    assert [(label.image.path, label.liked) for label in labels] == [("train/10.jpg", False)]


def test_csv_in_utf_16_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = csv_file(tmp_path, "")
    file.write_text('file_name,caption,split\r\ntrain/10.jpg,"röt, å",exclusive_win\r\n', encoding="utf-16", newline="")
    labels = [each for each in read_set(KTO, [file], Counter()) if isinstance(each, Label)]
    assert [(label.image.path, label.prompt) for label in labels] == [("train/10.jpg", "röt, å")]


def test_row_of_a_label_has_its_confidence() -> None:
    label = Label(Picture(None, path="10.jpg"), True, "red", confidence=0.25, mixed=True)
    row = {"image": "10.jpg", "liked": True, "prompt": "red", "confidence": 0.25, "mixed": True}
    assert label.columns(["10.jpg"]) == row


def test_rows_of_diffusion_kto_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    text = f"""file_name,split,caption
train/10.jpg,exclusive_win,red
train/10.jpg,ties,red
train/10.jpg,,red
train/10.jpg,exclusive_win,
train/10.jpg,exclusive_win
train/10.jpg,exclusive_win,a circle, red
,exclusive_win,red
train/gone.jpg,intersections,red
{"a" * 300}/10.jpg,exclusive_win,red
train/10.txt,exclusive_win,red
loop/x.jpg,exclusive_win,red
"""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "10.txt").write_text("text")
    found = convert(KTO, [csv_file(tmp_path, text)], tmp_path / "out")
    assert [json.loads(line) for line in found.path.read_text().splitlines()] == [
        {"image": "../train/10.jpg", "liked": True, "prompt": "red"}
    ]
    suffix = next(reason for reason in found.left_out if "suffix" in reason)
    assert found.left_out == {
        "with another split than exclusive_win, exclusive_lose, intersections": 2,
        "without a caption": 2,
        "with more cells than columns": 1,
        "without a path of its image": 1,
        "with a missing image file": 3,
        suffix: 1,
    }
    # The mixed label of the missing image is not among the counted ones.
    assert found.notes == ["1 liked"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,text\na,b\n", "got a table without file_name, caption, split or file_path, caption, label"),
        (b"file_name,caption,label\na,b,c\n", "got a table without file_name, caption, split or file_path"),
        (b"file_name,caption,split\ntrain/10.jpg,\0,exclusive_win\n", "got the character NUL on line 2"),
        (b"", "got a table without file_name"),
        (
            b"file_name,caption,split\ntrain/10.jpg,\xff,exclusive_win\n",
            "got expected text in UTF-8, got byte 0xFF on line 2; save",
        ),
        (
            b"file_name,caption,split\n" + b"a" * 131073 + b",red,exclusive_win\n",
            "got a row that cannot be read after line ",
        ),
        (b'file_name,caption,split\ntrain/10.jpg,"a"b,exclusive_win\n', "got a row that cannot be read after line 1 "),
        (
            b'file_name,caption,split\ntrain/10.jpg,"a circle,exclusive_win\n',
            "got a row that cannot be read after line 1 ",
        ),
        (b"file_name,caption,split\ntrain/10.jpg,red,best\n", "got none (1 with another split than exclusive_win"),
    ],
    ids=["other", "mixed", "nul", "empty", "latin", "long", "quotes", "open quote", "unknown"],
)
def test_csv_of_another_form_or_damaged_is_refused_in_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    file = csv_file(tmp_path, "")
    file.write_bytes(content)
    assert main(["pairs", str(file), "--set", "diffusion_kto", "--to", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "the CSV file of Diffusion-KTO" in error
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_labels_take_a_limit_and_the_folder_of_the_images_and_have_no_confidence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = csv_file(tmp_path, "file_name,caption,split\n10.jpg,red,exclusive_win\n120.jpg,red,exclusive_lose\n")
    command = ["pairs", str(file), "--set", "diffusion_kto", "--to", str(tmp_path / "out")]
    assert main([*command, "--images", str(tmp_path / "train"), "--limit", "1"]) == 0
    assert "labels.jsonl: 1 labels of 1 images, 1 liked" in capsys.readouterr().out
    assert main([*command, "--images", str(tmp_path / "train")]) == 2
    assert "expected a folder without labels.jsonl" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "more"), "--confidence"]) == 2
    assert "got diffusion_kto, which states no weight" in capsys.readouterr().err


def test_list_names_the_file_that_each_set_becomes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pairs", "--list"]) == 0
    sections = capsys.readouterr().out.split("\ndiffusion_kto: ")
    assert "written: labels.jsonl for algorithm.source=labels" in sections[1]
    assert "labels.jsonl" not in sections[0]

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from srpo_ray.data.prompts import load_prompts, prompt_indices, read_prompts

PROMPTS = ["a red circle", "ein grüner Kreis", "红色的圆"]


def test_text_json_and_json_lines_contain_the_same_prompts(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\n".join(["  a red circle ", "", *PROMPTS[1:], ""]))
    (tmp_path / "p.json").write_text(json.dumps([{"prompt": PROMPTS[0], "tag": 1}, *PROMPTS[1:]]))
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS))
    for name in ("p.txt", "p.json", "p.jsonl"):
        assert load_prompts(str(tmp_path / name)) == PROMPTS


def test_tables_contain_the_same_prompts_under_their_usual_columns(tmp_path: Path) -> None:
    with (tmp_path / "p.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["id", "Prompt"], *([number, prompt] for number, prompt in enumerate(PROMPTS))])
    (tmp_path / "p.tsv").write_text("\n".join(["Caption\tscore", *(f"{prompt}\t1" for prompt in PROMPTS)]))
    table = pyarrow.table({"score": [1, 2, 3], "text": PROMPTS})
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    for name in ("p.csv", "p.tsv", "p.parquet"):
        assert load_prompts(str(tmp_path / name)) == PROMPTS


def test_empty_and_repeated_prompts_are_counted_and_only_the_empty_left_out(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("a cat\n\n a cat \na dog\n\n")
    found = read_prompts(str(path))
    assert (found.prompts, found.empty, found.repeated) == (["a cat", "a cat", "a dog"], 2, 1)
    assert found.note == f"{path}: 3 prompts, 2 empty entries left out, 1 repeated prompts kept"
    path.write_text("a cat\na dog")
    assert read_prompts(str(path)).note is None
    assert read_prompts("small_world:train").note is None
    (tmp_path / "p.jsonl").write_text('"a cat"\n\n{"prompt": " "}\n{"prompt": null}\n')
    assert read_prompts(str(tmp_path / "p.jsonl")).empty == 3
    (tmp_path / "p.csv").write_text("id,prompt\n1,a cat\n\n2,\n")
    assert read_prompts(str(tmp_path / "p.csv")).empty == 2
    table = pyarrow.table({"prompt": ["a cat", None]})
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    assert read_prompts(str(tmp_path / "p.parquet")).empty == 1


def test_line_ends_and_marks_of_any_kind_stay_out_of_the_prompts_and_no_other_character_does(tmp_path: Path) -> None:
    # U+2028 and U+0085 end a line for Python's `splitlines`, but neither for JSON nor in a text file.
    inside = "one\u2028two\x85three"
    (tmp_path / "p.txt").write_bytes(f"\ufeff{inside}\r\na dog\r\n".encode())
    (tmp_path / "p.jsonl").write_bytes(f'\ufeff"{inside}"\r\n"a dog"'.encode())
    for name in ("p.txt", "p.jsonl"):
        assert load_prompts(str(tmp_path / name)) == [inside, "a dog"]


def test_all_broken_rows_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(['"a cat"', "{", "[1]", '{"prompt": "\\ud800"}', '"a dog"', "7"]))
    with pytest.raises(
        ValueError, match=r"got 4 of 6 without: entry 2 \(expected JSON, .*; entry 3 .*; entry 4 .*; \.\.\.;"
    ):
        load_prompts(str(path))
    (tmp_path / "p.csv").write_text("prompt\na cat\na cat, sitting\n")
    with pytest.raises(ValueError, match=r"got 1 of 2 without: entry 2 \(2 fields under 1 columns"):
        load_prompts(str(tmp_path / "p.csv"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", " \n\n", "expected at least one prompt"),
        ("p.json", "{", "syntax error"),
        ("p.json", '{"prompt": "x"}', "expected a JSON list"),
        ("p.jsonl", '{"words": "x"}', "entry 1"),
        ("p.jsonl", '"a"\n{"prompt": 3}', "entry 2"),
        ("p.csv", "words\nx\n", "expected a column prompt, caption or text, got 'words'"),
        ("p.csv", 'prompt\n"x" y\n', "expected CSV"),
        ("p.parquet", "x", "no complete Parquet file"),
        ("p.xlsx", "x", "expected a file of type .txt, .json, .jsonl, .csv, .tsv, .parquet"),
    ],
)
def test_unusable_prompt_file_is_refused_with_its_key(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        load_prompts(str(tmp_path / name), "evaluation.prompts")
    assert str(error.value).startswith("evaluation.prompts: ")


def test_missing_prompt_file_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a readable prompt file"):
        load_prompts("no/such/file.txt")


def test_every_epoch_is_a_new_permutation_of_all_prompts() -> None:
    batches = [prompt_indices(10, step, 4, seed=3) for step in range(5)]
    order = [index for batch in batches for index in batch]
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:] != sorted(order[10:])
    assert prompt_indices(10, 3, 4, seed=3) == batches[3]


def test_resumed_run_takes_the_same_prompts_at_any_step() -> None:
    straight = [index for step in range(6) for index in prompt_indices(5, step, 3, seed=1)]
    assert [index for step in range(4, 6) for index in prompt_indices(5, step, 3, seed=1)] == straight[12:]
    # One update may go through several epochs.
    assert sorted(prompt_indices(3, 0, 9, seed=1)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]

"""Conversion of public prompt sets: formats, disjoint parts, records of the sources, and refusals."""

import hashlib
import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from srpo_ray.cli import main
from srpo_ray.data.prompt_sets import PROMPT_SETS

COLOURS = ("red", "green", "blue", "white", "black", "brown", "pink", "grey", "gold", "cyan")
PROMPTS = [f"A {colour} cat." for colour in COLOURS]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def written_json(path: Path) -> Path:
    path.write_text(json.dumps(PROMPTS))
    return path


def written_objects(path: Path) -> Path:
    path.write_text(json.dumps([{"prompt": prompt, "image_path": ["a.jpg"], "rank": [0, 1]} for prompt in PROMPTS]))
    return path


def written_json_lines(path: Path) -> Path:
    path.write_text("".join(json.dumps({"tag": "counting", "prompt": prompt}) + "\n" for prompt in PROMPTS))
    return path


def written_tsv(path: Path) -> Path:
    rows = [f"{prompt}\tAnimals\tBasic\t\n" for prompt in PROMPTS]
    path.write_text("".join(["Prompt\tCategory\tChallenge\tNote\n", *rows]))
    return path


def written_csv(path: Path) -> Path:
    path.write_text("".join(["Prompts,Category\n", *(f'"{prompt}",Colors\n' for prompt in PROMPTS)]))
    return path


def written_table(path: Path, column: str) -> Path:
    pyarrow.parquet.write_table(pyarrow.table({"seed": list(range(10)), column: PROMPTS}), path)
    return path


KNOWN: list[tuple[str, str, Callable[[Path], Path]]] = [
    ("hpdv2_benchmark", "anime.json", written_json),
    ("hpdv2_train", "train.json", written_objects),
    ("partiprompts", "PartiPrompts.tsv", written_tsv),
    ("geneval", "evaluation_metadata.jsonl", written_json_lines),
    ("drawbench", "drawbench.csv", written_csv),
    ("pickapic", "train-0.parquet", lambda path: written_table(path, "caption")),
    ("diffusiondb", "metadata.parquet", lambda path: written_table(path, "prompt")),
]
"""Name of each known set, a file of it, and its writer in the format of that set."""


@pytest.mark.parametrize(("name", "file", "write"), KNOWN)
def test_every_known_set_becomes_three_disjoint_files(
    name: str, file: str, write: Callable[[Path], Path], tmp_path: Path
) -> None:
    source, to = write(tmp_path / file), tmp_path / "prompts"
    command = ["prompts", str(source), "--set", name, "--to", str(to), "--validation", "2", "--test", "3"]
    assert main(command) == 0
    parts = {part: lines(to / f"{part}.txt") for part in ("train", "validation", "test")}
    assert {part: len(prompts) for part, prompts in parts.items()} == {"train": 5, "validation": 2, "test": 3}
    assert sorted(chain(*parts.values())) == sorted(PROMPTS)
    record = json.loads((to / "test.txt.json").read_text())
    assert record["sha256"] == hashlib.sha256((to / "test.txt").read_bytes()).hexdigest()
    assert record["sources"] == [{"file": str(source), "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}]
    assert record["set"]["licence"] == PROMPT_SETS[name].licence
    assert main(command) == 0  # the same command again changes nothing


def test_test_cases_cover_every_known_set() -> None:
    assert {name for name, _, _ in KNOWN} == set(PROMPT_SETS)


def test_split_depends_on_the_seed_and_not_on_the_order_of_the_sources(tmp_path: Path) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("\n".join(PROMPTS[:5]))
    second.write_text("\n".join(PROMPTS[5:]))
    tests = {}
    for name, sources, seed in (
        ("forward", (first, second), 0),
        ("backward", (second, first), 0),
        ("other seed", (first, second), 1),
    ):
        command = ["prompts", *map(str, sources), "--to", str(tmp_path / name), "--test", "4", "--seed", str(seed)]
        assert main(command) == 0
        tests[name] = lines(tmp_path / name / "test.txt")
    assert tests["forward"] == tests["backward"]
    assert tests["forward"] != tests["other seed"]
    assert tests["forward"] != PROMPTS[:4]


def test_prompts_that_differ_in_case_blanks_or_closing_punctuation_are_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(["A red  cat.", "a red cat", "A blue\ncat", "A dog"]))
    (tmp_path / "b.txt").write_text("a DOG!\n")
    command = ["prompts", str(tmp_path / "a.json"), "--to", str(tmp_path), "--exclude", str(tmp_path / "b.txt")]
    assert main(command) == 0
    assert sorted(lines(tmp_path / "train.txt")) == ["A blue cat", "A red cat."]
    assert f"4 found, 1 repeated, 1 in {tmp_path / 'b.txt'}: 2 prompts" in capsys.readouterr().out


def test_second_command_for_a_folder_leaves_out_prompts_of_its_other_files(tmp_path: Path) -> None:
    train, test, to = tmp_path / "train.txt", tmp_path / "test.txt", tmp_path / "prompts"
    train.write_text("\n".join(PROMPTS[:6]))
    test.write_text("\n".join(PROMPTS[4:]))
    assert main(["prompts", str(train), "--to", str(to)]) == 0
    assert main(["prompts", str(test), "--to", str(to), "--train", "0", "--test", "4"]) == 0
    assert sorted(lines(to / "test.txt")) == sorted(PROMPTS[6:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--test", "20"], "expected at least 21 prompts (20 for test + 1 for train), got 10: 10 found, 0 repeated"),
        (["--train", "0"], "expected --train, --validation or --test above 0"),
        (["--set", "laion"], "--set: expected one of hpdv2_benchmark, "),
        (["--column", "Text"], "with text, in every entry of"),
        (["--exclude", "nothing.txt"], "--exclude: expected a readable prompt file"),
    ],
)
def test_bad_request_is_refused_before_a_file_is_written(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, to = written_objects(tmp_path / "a.json"), tmp_path / "prompts"
    assert main(["prompts", str(source), "--to", str(to), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not to.exists()


@pytest.mark.parametrize("number", ["x", "-1", "1.5"])
def test_number_of_prompts_that_is_none_is_refused(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as found:
        main(["prompts", "a.json", "--to", "prompts", f"--test={number}"])
    assert found.value.code == 2
    assert f"argument --test: expected a whole number from 0, got {number!r}" in capsys.readouterr().err


def test_file_with_other_prompts_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = written_json(tmp_path / "a.json")
    (tmp_path / "train.txt").write_text("my own prompt\n")
    assert main(["prompts", str(source), "--to", str(tmp_path)]) == 2
    assert "--to: expected no other prompts in" in capsys.readouterr().err
    assert lines(tmp_path / "train.txt") == ["my own prompt"]


def test_command_says_that_its_files_do_not_keep_conditioning_and_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "a cat", "conditioning": "A cat.", "positive_words": "Real"}, {"prompt": "a dog"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["prompts", str(tmp_path / "p.jsonl"), "--to", str(tmp_path / "out"), "--test", "1"]) == 0
    assert "2 found, 0 repeated, conditioning of 1 not kept, positive_words of 1 not kept: 2" in capsys.readouterr().out


def test_command_without_sources_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "--to", "prompts"]) == 2
    assert "expected prompt files and --to DIR" in capsys.readouterr().err
    assert main(["prompts", "--list"]) == 0
    printed = capsys.readouterr().out
    assert all(each.page in printed and each.licence in printed for each in PROMPT_SETS.values())

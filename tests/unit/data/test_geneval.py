"""Questions from metadata in GenEval's format."""

import json
from pathlib import Path
from typing import Any

import pytest

from srpo_ray.cli import main
from srpo_ray.data.geneval import questions_about
from srpo_ray.rewards.served.questions import read_questions, read_tags

COLOURED: dict[str, Any] = {
    "tag": "color_attr",
    "include": [{"class": "oven", "count": 1, "color": "green"}, {"class": "cup", "count": 1, "color": "red"}],
    "prompt": "a photo of a green oven and a red cup",
}
COUNTED: dict[str, Any] = {
    "tag": "counting",
    "include": [{"class": "spoon", "count": 3}],
    "exclude": [{"class": "spoon", "count": 4}, {"class": "fork", "count": 1}],
    "prompt": "a photo of  three spoons",
}
PLACED: dict[str, Any] = {
    "tag": "position",
    "include": [{"class": "cup", "count": 1}, {"class": "fork", "count": 1, "position": ["right of", 0]}],
    "prompt": "a photo of a fork right of a cup",
}


def pairs(metadata: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["question"], each["answer"]) for each in questions_about(metadata)]


def test_objects_colours_counts_and_positions_become_questions() -> None:
    assert pairs(COLOURED) == [
        ("Does the image show an oven?", "yes"),
        ("What is the color of the oven?", "green"),
        ("Does the image show a cup?", "yes"),
        ("What is the color of the cup?", "red"),
    ]
    # More spoons than three are another answer to the first question.
    assert pairs(COUNTED) == [
        ('How many objects of the kind "spoon" does the image show?', "three"),
        ("Does the image show a fork?", "no"),
    ]
    assert pairs(PLACED)[1:] == [
        ("Does the image show a fork?", "yes"),
        ("Is the fork to the right of the cup?", "yes"),
    ]


def test_command_writes_prompts_and_the_questions_that_a_reward_reads(tmp_path: Path) -> None:
    source, questions = tmp_path / "metadata.jsonl", tmp_path / "out" / "questions.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in (COLOURED, COUNTED, PLACED)))
    words = ["prompts", str(source), "--set", "geneval", "--to", str(tmp_path / "out"), "--train", "0", "--test", "3"]
    assert main([*words, "--questions", str(questions)]) == 0

    found = read_questions(str(questions))
    assert set(found) == set((tmp_path / "out" / "test.txt").read_text().splitlines())
    assert [each.answer for each in found["a photo of three spoons"]] == ["three", "no"]
    assert read_tags(str(questions))["a photo of three spoons"] == "counting"

    source.write_text(json.dumps(COLOURED) + "\n")
    more = [*words[:5], str(tmp_path / "more"), "--train", "0", "--test", "1", "--questions", str(questions)]
    assert main(more) == 2, "a file with other questions is kept"
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize(
    "line",
    [
        {"prompt": "a photo of a dog"},
        {"prompt": "a dog", "include": []},
        {"prompt": "a dog", "include": [{"class": "dog", "count": 11}]},
        {"prompt": "a dog", "include": [{"class": "dog", "count": 1, "position": ["near", 0]}]},
        {"prompt": "a dog", "include": [{"class": "dog", "count": 1, "position": ["above", 3]}]},
        {"include": [{"class": "dog", "count": 1}]},
        {"prompt": "a dog", "tag": 1, "include": [{"class": "dog", "count": 1}]},
        [],
    ],
    ids=str,
)
def test_other_metadata_is_refused_with_file_and_line_before_anything_is_written(
    line: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "metadata.jsonl"
    source.write_text(json.dumps(COLOURED) + "\n" + json.dumps(line) + "\n")
    out = str(tmp_path / "out")
    assert main(["prompts", str(source), "--to", out, "--test", "1", "--questions", f"{out}/questions.jsonl"]) == 2
    error = capsys.readouterr().err
    assert f"{source}, line 2" in error
    assert "Traceback" not in error
    assert not Path(out).exists()

"""Pair files ranked again by rewards: against rewards that are called image by image, and against a known taste."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from srpo_ray.algorithms.pair_choice import judge_pairs
from srpo_ray.cli import main
from srpo_ray.config import load_run
from srpo_ray.data.pair_images import relative_path
from srpo_ray.data.pairs import load_judged
from srpo_ray.evaluation.gallery import read_images, save_png, to_images
from srpo_ray.inference.pair_images import PairScorer
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.query import TextQuery
from srpo_ray.small_world.pairs import SmallWorldScenes
from tests.conftest import ROOT, SMALL_WORLD
from tests.helpers.rewards.bright_judge import LUMA, bright_answer
from tests.helpers.rewards.http_server import http_server

COUNT = 12
Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the images of the small world's pairs: `0_0.png` and `0_1.png` are the first pair."""
    folder, scenes = tmp_path_factory.mktemp("drawn"), SmallWorldScenes(COUNT, 2)
    for index, image in enumerate(to_images(scenes.load(range(2 * COUNT), 64))):
        save_png(image, folder / f"{index // 2}_{index % 2}.png", optimize=False)
    return folder


def row(index: int, **more: object) -> dict[str, Any]:
    prompt = SmallWorldScenes(COUNT, 2).captions[2 * index]
    return {"preferred": f"{index}_0.png", "other": f"{index}_1.png", "prompt": prompt, **more}


def write(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file = folder / "people.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return file


def rank(file: Path, out: Path, *words: str, config: Path = SMALL_WORLD) -> int:
    return main(["rank", str(config), "--pairs", str(file), "--out", str(out), "--batch-size", "5", *words])


def read(folder: Path) -> Rows:
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]


def scores_of(drawn: Path) -> dict[str, list[list[float]]]:
    """Scores of every pair of the small world's rewards, from one image at a time."""
    config = load_run([SMALL_WORLD])
    rewards = LocalRewards.load(config.rewards.models)
    found: dict[str, list[list[float]]] = {model.name: [] for model in config.rewards.models}
    for index in range(COUNT):
        both = [
            rewards.measure(read_images([drawn / row(index)[side]]), [TextQuery.plain(row(index)["prompt"])])
            for side in ("preferred", "other")
        ]
        for name, values in found.items():
            values.append([float(scores[name]) for scores in both])
    return found


def sums(scores: dict[str, list[list[float]]], index: int) -> list[float]:
    # The weights of configs/small_world.yaml.
    return [scores["preference"][index][side] + 0.5 * scores["contrastive"][index][side] for side in (0, 1)]


def test_relabelled_pairs_have_the_image_of_the_larger_weighted_sum_first(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A tie of the people is a pair for the rewards, and the people's confidence is none of the rewards'.
    rows = [row(index, confidence=0.0 if index == 3 else 0.4, annotator="a") for index in range(COUNT)]
    assert rank(write(drawn, rows), tmp_path / "out") == 0
    scores = scores_of(drawn)
    winners = [int(sums(scores, index)[1] > sums(scores, index)[0]) for index in range(COUNT)]
    assert 0 < sum(winners) < COUNT, "both orders occur"
    pairs = read(tmp_path / "out")
    for index, (pair, winner) in enumerate(zip(pairs, winners, strict=True)):
        assert pair.keys() == {"preferred", "other", "prompt", "scores"}
        files = [(tmp_path / "out" / pair[key]).resolve() for key in ("preferred", "other")]
        assert files == [drawn / f"{index}_{winner}.png", drawn / f"{index}_{1 - winner}.png"]
        for name, values in pair["scores"].items():
            assert values == pytest.approx([scores[name][index][side] for side in (winner, 1 - winner)], abs=1e-5)
    turned = sum(winners) - winners[3]
    assert f"12 of 12 pairs, {turned} with another preferred image\n" in capsys.readouterr().out
    assert load_judged(str(tmp_path / "out" / "pairs.jsonl"), "pairs").captions == [pair["prompt"] for pair in pairs]


def test_kept_labels_leave_out_what_the_rewards_contradict_or_hardly_tell_apart(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = scores_of(drawn)
    gaps = [sums(scores, index)[0] - sums(scores, index)[1] for index in range(COUNT)]
    agreed = sorted(gap for gap in gaps if gap > 0)
    least = (agreed[0] + agreed[1]) / 2
    rows = [row(index, confidence=0.4, annotator="a", unread=1) for index in range(COUNT)]
    assert (
        rank(write(drawn, [*rows, row(0, confidence=0)]), tmp_path / "out", "--keep-labels", f"--min-gap={least}") == 0
    )
    kept = [index for index in range(COUNT) if gaps[index] >= least]
    pairs = read(tmp_path / "out")
    assert [Path(pair["preferred"]).name for pair in pairs] == [f"{index}_0.png" for index in kept]
    assert all((pair["confidence"], pair["annotator"], "unread" in pair) == (0.4, "a", False) for pair in pairs)
    said = capsys.readouterr().out
    assert f"{len(kept)} of 13 pairs, 0 with another preferred image; left out: " in said
    assert f"{sum(gap < 0 for gap in gaps)} whose label the rewards contradict" in said
    assert f"1 with a gap below {least:g}" in said
    assert "1 without a preference in the file" in said


@pytest.mark.parametrize("words", [(), ("--keep-labels",)], ids=["relabelled", "kept"])
def test_temperature_writes_the_confidence_of_the_gap(words: tuple[str, ...], drawn: Path, tmp_path: Path) -> None:
    rows = [row(index, confidence=0.5) for index in range(COUNT)]
    assert rank(write(drawn, rows), tmp_path / "out", "--temperature", "0.05", *words) == 0
    pairs = read(tmp_path / "out")
    weights = {"preference": 1.0, "contrastive": 0.5}
    gaps = [sum(weights[name] * (both[0] - both[1]) for name, both in pair["scores"].items()) for pair in pairs]
    # 2 p - 1 of the Bradley-Terry probability p = 1 / (1 + exp(-d / T)).
    expected = [2 / (1 + math.exp(-gap / 0.05)) - 1 for gap in gaps]
    assert [pair["confidence"] for pair in pairs] == pytest.approx(expected)
    assert len({round(each, 3) for each in expected}) > 1
    labels = load_judged(str(tmp_path / "out" / "pairs.jsonl"), "pairs").labels
    assert (labels[:, 0] - labels[:, 1]).tolist() == pytest.approx(expected, abs=1e-6)


def test_vote_counts_rewards_and_dominance_needs_all_of_them() -> None:
    rewards = torch.tensor(
        [
            [[3.0, 1, 1], [0, 2, 2]],  # the sum and the vote disagree
            [[1.0, 1, 2], [0, 1, 1]],  # all agree or abstain
            [[1.0, 0, 0], [0, 1, 0]],  # one vote each
        ]
    )
    weights = torch.ones(3)
    judged = {each: judge_pairs(rewards, weights, each).winner.tolist() for each in ("best_worst", "vote", "dominance")}  # pyright: ignore[reportArgumentType]
    assert judged == {"best_worst": [0, 0, -1], "vote": [1, 0, -1], "dominance": [-1, 0, -1]}
    assert judge_pairs(rewards, weights, "best_worst", 1.5).close.tolist() == [True, False, False]


@pytest.mark.parametrize("selection", ["vote", "dominance"])
def test_command_passes_the_rule_on(
    selection: str, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(write(drawn, [row(index) for index in range(COUNT)]), tmp_path / "out", "--select", selection) == 0
    # Two rewards have a majority, and no contradiction, where both prefer the same image.
    scores = scores_of(drawn)
    signs = [
        {math.copysign(1, scores[name][index][0] - scores[name][index][1]) for name in scores} for index in range(COUNT)
    ]
    agreed = [f"{index}_{0 if sign == {1.0} else 1}.png" for index, sign in enumerate(signs) if len(sign) == 1]
    assert [Path(pair["preferred"]).name for pair in read(tmp_path / "out")] == agreed
    assert f"left out: {COUNT - len(agreed)} that {selection} does not tell apart" in capsys.readouterr().out


def test_images_of_several_sizes_and_repeated_pairs_are_scored_once_each(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[int, ...]] = []
    measure = LocalRewards.measure
    monkeypatch.setattr(
        LocalRewards,
        "measure",
        lambda self, images, *rest: (seen.append(tuple(images.shape)), measure(self, images, *rest))[1],
    )
    with Image.open(drawn / "1_1.png") as image:
        image.resize((96, 64)).save(drawn / "wide.png")
    rows = [
        row(0),
        row(0),
        {**row(0), "preferred": "0_1.png", "other": "0_0.png"},
        row(1),
        {**row(1), "other": "wide.png"},
    ]
    assert rank(write(drawn, rows), tmp_path / "out") == 0
    assert sorted(seen) == [(1, 3, 64, 96), (4, 3, 64, 64)]
    assert len(read(tmp_path / "out")) == 3
    assert "left out: 2 of images and a prompt that an earlier row has" in capsys.readouterr().out


def test_stopped_command_resumes_and_another_rule_scores_nothing_again(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chunks: list[list[int]] = []
    draw = PairScorer.draw

    def interrupted(self: PairScorer, chunk: list[int]) -> Rows:
        if len(chunks) == 2:
            raise KeyboardInterrupt
        chunks.append(chunk)
        return draw(self, chunk)

    file = write(drawn, [row(index) for index in range(COUNT)])
    monkeypatch.setattr(PairScorer, "draw", interrupted)
    assert rank(file, tmp_path / "out") == 130
    assert "stopped after 10 of 24 images" in capsys.readouterr().err
    monkeypatch.setattr(PairScorer, "draw", lambda self, chunk: (chunks.append(chunk), draw(self, chunk))[1])
    assert rank(file, tmp_path / "out") == 0
    assert sorted(index for chunk in chunks for index in chunk) == list(range(24))
    assert rank(file, tmp_path / "out", "--select", "vote", "--keep-labels") == 0
    assert rank(file, tmp_path / "out", "--select", "vote", "--keep-labels", config=SMALL_WORLD) == 0
    assert len(chunks) == 5
    assert rank(write(drawn, [row(0)]), tmp_path / "out") == 2
    assert "which has images of other pairs" in capsys.readouterr().err


def test_black_box_judge_relabels_by_what_it_is_asked(drawn: Path, tmp_path: Path) -> None:
    config = tmp_path / "judge.yaml"
    with http_server(bright_answer) as server:
        config.write_text(
            f"rewards:\n  models:\n    - {{name: judge, type: judge, url: '{server.url}', model: m}}\nevaluation:\n"
            "  held_out: []\n"
        )
        file = write(drawn, [row(index) for index in range(COUNT)])
        words = [str(SMALL_WORLD), str(ROOT / "configs" / "algorithms" / "dance_grpo.yaml"), str(config)]
        assert main(["rank", *words, "--pairs", str(file), "--out", str(tmp_path / "out")]) == 0
    light = torch.tensor(LUMA, dtype=torch.float32)[:, None, None]
    for pair in read(tmp_path / "out"):
        preferred, other = (
            float((read_images([tmp_path / "out" / pair[key]])[0] * light).sum(0).mean())
            for key in ("preferred", "other")
        )
        assert preferred > other
        assert pair["scores"]["judge"] == pytest.approx([preferred, other], abs=2e-3)


@pytest.mark.parametrize(
    ("words", "rows", "message"),
    [
        (["--prompts", "x"], [row(0)], "--pairs: expected no option of sampled images with it, got --prompts"),
        (["--seed", "0"], [row(0)], "got --seed"),
        (["--min-gap", "100"], [row(0)], "got none in"),
        (["--min-gap", "-1"], [row(0)], "--min-gap: expected a number of at least 0"),
        (["--temperature", "0"], [row(0)], "--temperature: expected a number above 0, got 0"),
        (["--select", "vote", "--min-gap", "1"], [row(0)], "expected no --min-gap with --select=vote, got 1"),
        (["--select", "vote", "--temperature", "1"], [row(0)], "expected no --temperature with --select=vote, got 1"),
        ([], [row(0, other_prompt="b")], "got other_prompt in 1 of 1 rows"),
        ([], [row(0), {**row(1), "other": "no.png"}], "--pairs: expected preferred, other and prompt in every row"),
        (
            ["rewards.models=[]", "algorithm.type=preference", "data.pairs=x.jsonl"],
            [row(0)],
            "rewards.models: expected models",
        ),
    ],
)
def test_inputs_that_give_no_file_are_refused(
    words: list[str],
    rows: Rows,
    message: str,
    drawn: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [word for word in words if "." not in word.partition("=")[0]]
    overrides = [word for word in words if word not in options]
    file = write(drawn, rows)
    assert (
        main(["rank", str(SMALL_WORLD), *overrides, "--pairs", str(file), "--out", str(tmp_path / "out"), *options])
        == 2
    )
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "pairs.jsonl").exists()


def test_pairs_that_are_not_files_or_would_be_replaced_are_refused(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(Path("small_world:pairs"), tmp_path / "out") == 2
    assert "--pairs: expected a .jsonl file, got small_world:pairs" in capsys.readouterr().err
    file = write(drawn, [row(0)]).rename(drawn / "pairs.jsonl")
    before = file.read_text()
    assert rank(file, drawn) == 2
    assert "--out: expected another folder than that of --pairs" in capsys.readouterr().err
    assert file.read_text() == before
    assert main(["rank", str(SMALL_WORLD), "--keep-labels", "--out", str(tmp_path / "out")]) == 2
    assert "--keep-labels: expected --pairs with it" in capsys.readouterr().err


def test_relative_path_leads_to_the_same_file_behind_a_linked_folder(tmp_path: Path) -> None:
    deep, out = tmp_path / "real" / "deep", tmp_path / "out"
    for folder in (deep, out):
        folder.mkdir(parents=True)
    (tmp_path / "real" / "image.png").write_bytes(b"image")
    (tmp_path / "link").symlink_to(deep)
    found = relative_path(tmp_path / "link" / ".." / "image.png", out)
    assert (out / found).read_bytes() == b"image"


def test_links_to_images_and_files_are_kept_as_they_are(drawn: Path, tmp_path: Path) -> None:
    # As in the cache of a hub: the names have a suffix, the files that they link to have none.
    (tmp_path / "set").mkdir()
    for side in (0, 1):
        blob = tmp_path / f"blob{side}"
        blob.write_bytes((drawn / f"0_{side}.png").read_bytes())
        (tmp_path / "set" / f"0_{side}.png").symlink_to(blob)
    write(tmp_path, [row(0)]).rename(tmp_path / "stored")
    (tmp_path / "set" / "people.jsonl").symlink_to(tmp_path / "stored")
    assert rank(tmp_path / "set" / "people.jsonl", tmp_path / "out") == 0
    (pair,) = read(tmp_path / "out")
    assert {pair["preferred"], pair["other"]} == {"../set/0_0.png", "../set/0_1.png"}
    assert len(load_judged(str(tmp_path / "out" / "pairs.jsonl"), "pairs").rows) == 1

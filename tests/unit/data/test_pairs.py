"""Files of judged images: rows, labels, unique pictures, ties, and refusals with counts; the small world's pairs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from srpo_ray.config import load_run
from srpo_ray.config.algorithms.base import Judged
from srpo_ray.data.pairs import load_judged
from srpo_ray.data.texts import read_texts
from srpo_ray.runs.inputs import text_hashes
from srpo_ray.small_world.pairs import TASTES, SmallWorldScenes
from srpo_ray.small_world.truth import measure
from tests.conftest import SMALL_WORLD


def write(folder: Path, *rows: Any, images: str = "abc") -> str:
    """A pair file and its images, of which each has a colour of its own."""
    (folder / "images").mkdir(exist_ok=True)
    for index, name in enumerate(images):
        Image.new("RGB", (8, 8), (60 * index, 0, 0)).save(folder / "images" / f"{name}.png")
    file = folder / "pairs.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(file)


def pair(preferred: str, other: str, **more: object) -> dict[str, object]:
    return {"preferred": f"images/{preferred}.png", "other": f"images/{other}.png", "prompt": "a circle", **more}


def test_pairs_have_their_images_in_order_and_each_picture_once(tmp_path: Path) -> None:
    file = write(tmp_path, pair("a", "b"), pair("b", "c", prompt=" a square "), pair("a", "./c", confidence=0.5))
    judged = load_judged(file, "pairs")
    assert judged.captions == ["a circle", "a square", "a circle"]
    assert [row.images for row in judged.rows] == [(0, 1), (1, 2), (0, 2)]
    assert len(judged.images.identities) == len(set(judged.images.identities)) == 3
    assert judged.labels.tolist() == [[1.0, 0.0], [1.0, 0.0], [0.75, 0.25]]
    reds = judged.images.load([0, 1, 2], 8)[:, 0, 0, 0]
    torch.testing.assert_close(reds, torch.tensor([0.0, 60 / 255, 120 / 255]))


def test_ties_are_left_out_and_counted_and_their_images_are_not_listed(tmp_path: Path) -> None:
    file = write(tmp_path, pair("a", "b", annotator="x"), pair("b", "c", confidence=0), pair("b", "a", annotator="y"))
    judged = load_judged(file, "pairs")
    assert [row.images for row in judged.rows] == [(0, 1), (1, 0)]
    assert judged.note == f"{file}: 2 pairs of 2 annotators, 2 images, 1 tie left out, 2 contradict another row"


def test_repeated_and_contradicting_pairs_of_one_prompt_are_kept_and_counted(tmp_path: Path) -> None:
    rows = [
        pair("a", "b"),
        pair("a", "./b", annotator="x"),
        pair("b", "a"),
        pair("b", "a", prompt="a square"),
        pair("a", "c"),
    ]
    judged = load_judged(write(tmp_path, *rows), "pairs")
    assert [row.images for row in judged.rows] == [(0, 1), (0, 1), (1, 0), (1, 0), (0, 2)]
    assert str(judged.note).endswith(
        "5 pairs of 1 annotators, 3 images, 1 repeat an earlier row, 3 contradict another row"
    )


def test_pairs_repeat_each_other_by_images_and_both_captions(tmp_path: Path) -> None:
    rows = [
        pair("a", "b", other_prompt="one"),
        pair("a", "b", other_prompt="two"),
        {**pair("b", "a", other_prompt="a circle"), "prompt": "one"},
    ]
    judged = load_judged(write(tmp_path, *rows), "pairs", own_captions=True)
    assert str(judged.note).endswith("3 pairs, 2 images, 2 contradict another row")


def test_labels_are_signed_and_a_share_of_a_half_is_a_tie(tmp_path: Path) -> None:
    def label(name: str, liked: object, **more: object) -> dict[str, object]:
        return {"image": f"images/{name}.png", "liked": liked, "prompt": "a circle", **more}

    rows = label("a", True), label("b", False), label("c", 0.75), label("a", 0.5), label("b", 1, confidence=0.2)
    judged = load_judged(write(tmp_path, *rows), "labels")
    torch.testing.assert_close(judged.labels, torch.tensor([[1.0], [-1.0], [0.5], [0.2]]))
    assert judged.note is not None
    assert judged.note.endswith("4 labels, 3 images, 1 tie left out")


def test_rows_that_cannot_be_used_are_refused_together_with_counts(tmp_path: Path) -> None:
    rows: list[Any] = [
        pair("a", "b"),
        pair("a", "x"),
        pair("y", "b"),
        pair("a", "a"),
        pair("a", "b", confidence=1.2),
        pair("a", "b", confidence=True),
        {"other": "images/a.png", "prompt": "a circle"},
        {"preferred": "images/a.png", "prompt": "a circle"},
        pair("a", "b", prompt=" "),
        "[1, 2]",
        '{"preferred": ',
    ]
    with pytest.raises(ValueError) as refused:
        load_judged(write(tmp_path, *rows), "pairs")
    message = str(refused.value)
    for part in (
        "data.pairs: expected preferred, other and prompt in every row",
        "got 10 of 11 rows that cannot be used",
        "2 with a missing image (line 2: images/x.png, line 3: images/y.png)",
        "1 with the same image twice (line 4)",
        "2 with `confidence` outside [0, 1] (line 5, line 6)",
        "1 with no winner (line 7)",
        "1 with no `other` (line 8)",
        "1 with no `prompt` (line 9)",
        "2 with no JSON object (line 10, line 11)",
    ):
        assert part in message


def test_image_is_the_same_by_an_absolute_path_and_by_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(tmp_path / "images")
    rows = [
        pair("a", "b"),
        {**pair("a", "a"), "other": str(tmp_path / "images" / "a.png")},
        {**pair("a", "a"), "preferred": "linked/a.png"},
        {**pair("a", "a"), "preferred": "linked/b.png"},
    ]
    with pytest.raises(ValueError, match=r"2 of 4 rows .*: 2 with the same image twice \(line 2, line 3\);"):
        load_judged(write(tmp_path, *rows), "pairs")


def test_pairs_repeat_and_contradict_each_other_through_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(tmp_path / "images")
    rows = [
        pair("a", "b"),
        {**pair("a", "b"), "preferred": "linked/a.png"},
        {**pair("b", "a"), "other": str(tmp_path / "linked" / "a.png")},
        {**pair("b", "c"), "preferred": "linked/b.png"},
    ]
    judged = load_judged(write(tmp_path, *rows), "pairs")
    assert str(judged.note).endswith("1 repeat an earlier row, 3 contradict another row")


@pytest.mark.parametrize(
    ("confidence", "noted"),
    [("full", True), ("utility", False)],
)
def test_slope_by_confidence_is_noted_where_all_rows_have_confidence_1(confidence: str, noted: bool) -> None:
    settings = "algorithm.type=preference", f"data.pairs=small_world:pairs?confidence={confidence}"
    notes = read_texts(load_run([SMALL_WORLD], [*settings, "algorithm.confidence_slope=10"])).notes
    expected = "algorithm.confidence_slope: all rows of small_world:pairs?confidence=full have the confidence 1"
    assert any(note.startswith(expected) for note in notes) == noted
    assert not any("confidence_slope" in note for note in read_texts(load_run([SMALL_WORLD], settings)).notes)


def test_labels_neither_true_nor_false_nor_a_share_are_refused(tmp_path: Path) -> None:
    rows = [{"image": "images/a.png", "prompt": "a circle", "liked": liked} for liked in (2, "yes", None, -0.1)]
    with pytest.raises(
        ValueError, match=r"4 of 4 rows .*: 4 with `liked` outside \[0, 1\] \(line 1, line 2, line 3, ..."
    ):
        load_judged(write(tmp_path, *rows), "labels")


def test_own_captions_must_be_in_every_row_and_others_are_counted(tmp_path: Path) -> None:
    file = write(tmp_path, pair("a", "b", other_prompt="a square"), pair("b", "c"))
    with pytest.raises(ValueError, match=r"1 of 2 rows .* 1 with no `other_prompt` \(line 2\)"):
        load_judged(file, "pairs", own_captions=True)
    shared = load_judged(file, "pairs")
    assert shared.other_captions == ["a circle", "a circle"]
    assert "1 other captions not used" in str(shared.note)
    own = load_judged(write(tmp_path, pair("a", "b", other_prompt="a square")), "pairs", own_captions=True)
    assert own.other_captions == ["a square"]


def test_captions_of_an_image_are_a_right_and_a_wrong_one(tmp_path: Path) -> None:
    def captions(name: str, right: object, wrong: object, **more: object) -> dict[str, object]:
        return {"image": f"images/{name}.png", "prompt": right, "other_prompt": wrong, **more}

    rows: list[Any] = [
        captions("a", "a circle", "a square"),
        captions("a", " a circle", "a cross ", confidence=0.5),
        captions("b", "a cross", "a square", confidence=0),
    ]
    judged = load_judged(write(tmp_path, *rows), "captions")
    assert [(row.images, row.prompt, row.other_prompt) for row in judged.rows] == [
        ((0,), "a circle", "a square"),
        ((0,), "a circle", "a cross"),
    ]
    assert judged.labels.tolist() == [[1.0], [0.5]]
    assert judged.note is not None
    assert judged.note.endswith("2 pairs of captions, 1 images, 1 tie left out")
    rows += [
        captions("a", "a circle", " a circle "),
        captions("x", "a circle", "a square"),
        captions("b", "a circle", None),
    ]
    with pytest.raises(ValueError) as refused:
        load_judged(write(tmp_path, *rows), "captions")
    for part in (
        "expected image, other_prompt and prompt in every row",
        "got 3 of 6 rows that cannot be used",
        "1 with equal captions (line 4)",
        "1 with a missing image (line 5: images/x.png)",
        "1 with no `other_prompt` (line 6)",
    ):
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "at least one judgement"), ([pair("a", "b", confidence=0)], r"got none \(1 ties\)")],
    ids=["empty", "ties"],
)
def test_file_without_a_judgement_is_refused(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_judged(write(tmp_path, *rows), "pairs")


def test_missing_file_is_refused_with_the_embedded_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a readable .jsonl file or small_world:pairs"):
        load_judged(str(tmp_path / "none.jsonl"), "pairs")


def test_changed_image_has_another_cache_key(tmp_path: Path) -> None:
    file = write(tmp_path, pair("a", "b"))
    before = load_judged(file, "pairs").images.identities
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "images" / "a.png")
    after = load_judged(file, "pairs").images.identities
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True]


def test_texts_of_a_run_are_the_captions_of_its_pairs_and_their_judgements_are_recorded(tmp_path: Path) -> None:
    file = write(tmp_path, pair("a", "b", other_prompt="a square"))
    keys = [f"data.pairs={file}", "algorithm.type=preference", "algorithm.captions=own"]
    config = load_run([SMALL_WORLD], keys)
    texts = read_texts(config)
    assert texts.trained.prompts == ["a circle"]
    assert texts.others == ["a square"]
    assert {"a circle", "a square"} <= set(texts.encoded)
    assert texts.by_key["data.pairs"].prompts == ["a circle", "a square"]
    before = text_hashes(config, texts)["data.pairs"]
    write(tmp_path, pair("b", "a", other_prompt="a square"))
    assert text_hashes(config, read_texts(config))["data.pairs"] != before


def test_pairs_of_the_small_world_have_one_content_and_the_taste_of_their_annotator() -> None:
    judged = load_judged("small_world:pairs?taste=held_out", "pairs")
    assert len(judged.rows) == 256
    first, second = (judged.images.load([row.images[side] for row in judged.rows], 64) for side in (0, 1))
    better, worse = measure(first, judged.captions), measure(second, judged.captions)
    assert min(better["content_accuracy"].mean().item(), worse["content_accuracy"].mean().item()) > 0.99
    assert (better["detail"] - worse["detail"]).mean().item() > 0.2
    # Natural saturation is preferred as well.
    distance = (better["saturation"] - 0.45).abs() - (worse["saturation"] - 0.45).abs()
    assert distance.mean().item() < 0
    default = load_judged("small_world:pairs", "pairs")
    first, second = (default.images.load([row.images[side] for row in default.rows], 64) for side in (0, 1))
    better, worse = measure(first, default.captions), measure(second, default.captions)
    assert (better["saturation"] - worse["saturation"]).mean().item() > 0.1


def test_noise_reverses_a_share_of_the_judgements_of_the_small_world() -> None:
    right, noisy = (load_judged(f"small_world:pairs{more}", "pairs") for more in ("", "?noise=0.25"))
    changed = sum(one.images != other.images for one, other in zip(right.rows, noisy.rows, strict=True))
    assert 0.15 < changed / 256 < 0.35
    assert noisy.note == f"small_world:pairs?noise=0.25: {changed} of 256 judgements reversed"
    assert {tuple(sorted(row.images)) for row in noisy.rows} == {tuple(sorted(row.images)) for row in right.rows}


def test_labels_of_the_small_world_like_the_preferred_image_of_each_pair() -> None:
    pairs, labels = load_judged("small_world:pairs", "pairs"), load_judged("small_world:labels", "labels")
    assert len(labels.rows) == 512
    liked = {row.images[0] for row in labels.rows if row.labels == (1.0,)}
    assert liked == {row.images[0] for row in pairs.rows}


def test_captions_of_the_small_world_are_right_for_their_image_unless_they_are_exchanged() -> None:
    judged = load_judged("small_world:captions?count=48", "captions")
    assert [row.images for row in judged.rows] == [(index,) for index in range(48)]
    images = judged.images.load(range(48), 64)
    right, wrong = (
        measure(images, captions)["content_accuracy"] for captions in (judged.captions, judged.other_captions)
    )
    assert right.mean() > 0.99
    assert wrong.max() < 0.95
    noisy = load_judged("small_world:captions?count=48&noise=0.25", "captions")
    changed = [(one.prompt, one.other_prompt) for one in noisy.rows if one not in judged.rows]
    assert 4 < len(changed) < 24
    assert {captions[::-1] for captions in changed} <= {(row.prompt, row.other_prompt) for row in judged.rows}
    assert noisy.note == f"small_world:captions?count=48&noise=0.25: {len(changed)} of 48 judgements reversed"


@pytest.mark.parametrize("kind", ["pairs", "labels"])
def test_confidence_by_utility_is_that_of_a_logistic_choice_of_the_annotator(kind: Judged) -> None:
    sure, graded = (load_judged(f"small_world:{kind}?count=64{more}", kind) for more in ("", "&confidence=utility"))
    values = SmallWorldScenes(64, 2).utilities(TASTES["preference"]).astype(float)
    likely = 1 / (1 + np.exp(-np.abs(values[:, 0] - values[:, 1])))
    assert [row.images for row in sure.rows] == [row.images for row in graded.rows]
    if kind == "pairs":
        assert sure.labels.tolist() == [[1.0, 0.0]] * 64
        assert graded.labels[:, 0].tolist() == pytest.approx(likely, abs=1e-6)
        assert graded.labels.sum(dim=1).tolist() == pytest.approx([1.0] * 64)
    else:
        assert graded.labels.abs()[::2, 0].tolist() == pytest.approx(2 * likely - 1, abs=1e-6)
        assert torch.equal(graded.labels.sign(), sure.labels)


def test_minority_of_the_judgements_is_that_of_the_other_annotator() -> None:
    mixed = load_judged("small_world:pairs?taste=held_out&minority=0.25", "pairs")
    scenes = SmallWorldScenes(256, 2)
    own, other = (scenes.utilities(TASTES[name]).argmax(axis=1) for name in ("held_out", "preference"))
    chosen = np.array([row.images[0] % 2 for row in mixed.rows])
    disputed = own != other
    assert (chosen == own)[~disputed].all()
    share = (chosen == other)[disputed].mean()
    assert 0.15 < share < 0.35
    assert "of 256 judgements of the annotator preference" in str(mixed.note)


def test_drawn_judgements_have_the_share_of_mistakes_of_a_logistic_choice() -> None:
    count, temperature = 4096, 0.5
    drawn = load_judged(f"small_world:pairs?count={count}&temperature={temperature}", "pairs")
    values = SmallWorldScenes(count, 2).utilities(TASTES["preference"]).astype(float)
    likely = 1 / (1 + np.exp(-np.abs(values[:, 0] - values[:, 1]) / temperature))
    right = np.array([row.images[0] % 2 for row in drawn.rows]) == values.argmax(axis=1)
    assert abs(right.mean() - likely.mean()) < 4 * (likely * (1 - likely)).mean() ** 0.5 / count**0.5
    # Large differences are judged right more often.
    large = np.abs(values[:, 0] - values[:, 1]) > 0.85
    assert right[large].mean() > likely[large].mean() - 0.05 > right[~large].mean()


@pytest.mark.parametrize("kind", ["pairs", "labels"])
def test_pairs_of_similar_utilities_are_left_out_with_their_number(kind: Judged) -> None:
    every = load_judged(f"small_world:{kind}", kind)
    large = load_judged(f"small_world:{kind}?min_gap=0.4378", kind)
    values = SmallWorldScenes(256, 2).utilities(TASTES["preference"]).astype(float)
    contents = np.flatnonzero(np.abs(values[:, 0] - values[:, 1]) >= 0.4378)
    assert len(contents) == 128
    assert {row.images[0] // 2 for row in large.rows} == {*contents.tolist()}
    # The others keep their judgement and image.
    assert set(large.rows) <= set(every.rows)
    assert len(large.rows) == (128 if kind == "pairs" else 256)
    assert str(large.note).endswith("128 of 256 pairs left out, whose utilities differ by less than 0.4378")
    with pytest.raises(ValueError, match="differ by at least min_gap, got none"):
        load_judged(f"small_world:{kind}?min_gap=9", kind)


def test_other_images_of_the_small_world_get_wrong_captions_of_their_own() -> None:
    shared, own = (load_judged("small_world:pairs?count=32", "pairs", own_captions=each) for each in (False, True))
    assert own.captions == shared.captions == shared.other_captions
    assert all(one != other for one, other in zip(own.captions, own.other_captions, strict=True))
    assert [row.images for row in own.rows] == [row.images for row in shared.rows]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("small_world:captions", "expected small_world:pairs with algorithm.source=pairs"),
        ("small_world:pairs?part=color", "got 'small_world:pairs.part=color'"),
        ("small_world:labels", "expected small_world:pairs with algorithm.source=pairs"),
        ("small_world:pairs?noise=1", "noise and minority .in .0, 1"),
        ("small_world:pairs?color=red", "got 'small_world:pairs.color=red'"),
        ("small_world:pairs?taste=mine", "preference or held_out"),
        ("small_world:pairs?minority=1", "noise and minority .in .0, 1.., temperature and min_gap .at least 0., taste"),
        ("small_world:pairs?temperature=inf", "temperature and min_gap .at least 0."),
    ],
)
def test_unknown_embedded_sources_are_refused(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_judged(source, "pairs")


@pytest.mark.parametrize("option", ["taste=held_out", "part=size", "count=0", "noise=1"])
def test_unknown_options_of_captions_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=r"part .any or color or shape or background. after"):
        load_judged(f"small_world:captions?{option}", "captions")

"""Public sets of pairs: the preferred image of each row, what is left out, refused files, and the converted file."""

import json
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image, features

from srpo_ray.cli import main
from srpo_ray.data.pair_files import convert
from srpo_ray.data.pair_rows import Pair
from srpo_ray.data.pair_sets import PAIR_SETS, read_set
from srpo_ray.data.pairs import load_judged


def picture(red: int, kind: str = "PNG") -> bytes:
    content = BytesIO()
    Image.new("RGB", (8, 8), (red, 0, 0)).save(content, kind)
    return content.getvalue()


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def read_pairs(name: str, file: Path, left_out: Counter[str]) -> list[Pair]:
    return [pair for pair in read_set(PAIR_SETS[name], [file], left_out) if isinstance(pair, Pair)]


def pick(best: float, **more: object) -> dict[str, Any]:
    """A row of Pick-a-Pic whose first image has a share of the vote."""
    row = {
        "caption": "a circle",
        "jpg_0": picture(10, "JPEG"),
        "jpg_1": picture(20, "JPEG"),
        "label_0": best,
        "label_1": 1 - best,
        "image_0_uid": "u-0",
        "image_1_uid": "u-1",
        "has_label": True,
        "are_different": True,
        "user_id": 7,
    }
    return {**row, **more}


def test_pick_a_pic_prefers_the_larger_label_and_counts_what_has_no_winner(tmp_path: Path) -> None:
    rows = [
        pick(1.0),
        pick(0.0),
        pick(0.5),
        pick(1.0, has_label=False),
        pick(1.0, are_different=False),
        pick(1.0, image_1_uid="u-0"),
        pick(1.0, jpg_1=picture(10, "JPEG")),
        pick(1.0, caption=None),
        pick(1.0, caption=" "),
    ]
    left_out: Counter[str] = Counter()
    pairs = read_pairs("pick_a_pic", table(tmp_path / "a.parquet", rows), left_out)
    assert [(pair.preferred.name, pair.other.name, pair.annotator) for pair in pairs] == [
        ("u-0", "u-1", "7"),
        ("u-1", "u-0", "7"),
    ]
    assert pairs[1].preferred.content == rows[1]["jpg_1"]
    assert +left_out == {"ties": 1, "without a label": 1, "with the same image twice": 3, "without a caption": 2}


def test_rows_of_pick_a_pic_that_cannot_be_used_are_counted_and_the_others_read(tmp_path: Path) -> None:
    rows = [
        pick(1.0),
        pick(1.0, label_1=1.0),
        pick(1.0, label_0=3.0),
        pick(1.0, jpg_1=None),
        pick(0.0, image_1_uid="u-2"),
    ]
    left_out: Counter[str] = Counter()
    pairs = read_pairs("pick_a_pic", table(tmp_path / "a.parquet", rows), left_out)
    assert [pair.preferred.name for pair in pairs] == ["u-0", "u-2"]
    assert left_out == {
        "with labels that do not add up to 1": 1,
        "with a label outside [0, 1]": 1,
        "without the bytes of an image": 1,
    }


def test_table_of_another_set_is_refused_with_its_missing_columns(tmp_path: Path) -> None:
    file = table(tmp_path / "a.parquet", [{"prompt": "a circle", "chosen": picture(1)}])
    with pytest.raises(ValueError, match=r"expected open-image.*, got a table without rejected"):
        list(read_set(PAIR_SETS["open_image_preferences"], [file], Counter()))


def images(folder: Path, *names: str) -> None:
    for index, name in enumerate(names):
        (folder / name).write_bytes(picture(index))


def write_json(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows))
    return path


def paths_of(name: str, file: Path) -> tuple[list[tuple[str | None, str | None]], Counter[str]]:
    left_out: Counter[str] = Counter()
    pairs = read_pairs(name, file, left_out)
    return [(pair.preferred.path, pair.other.path) for pair in pairs], +left_out


def test_hpdv2_has_votes_of_two_images_in_training_and_ranks_of_groups_in_its_test(tmp_path: Path) -> None:
    train = [
        {"prompt": "p", "file_path": ["a", "b"], "human_preference": [0, 1]},
        {"prompt": "p", "file_path": ["a", "b"], "human_preference": [1, 0]},
        {"prompt": "p", "file_path": ["a", "b"], "human_preference": [0, 0]},
    ]
    assert paths_of("hpdv2", write_json(tmp_path / "train.json", train)) == ([("b", "a"), ("a", "b")], {"ties": 1})
    test = [{"prompt": "p", "image_path": ["a", "b", "c"], "rank": [2, 1, 2], "raw_annotations": []}]
    assert paths_of("hpdv2", write_json(tmp_path / "test.json", test)) == ([("b", "a"), ("b", "c")], {"ties": 1})


def ranked(prompt: str, *images: tuple[str | None, int | None]) -> list[dict[str, Any]]:
    """Rows of ImageRewardDB, with the columns of its `metadata-train.parquet`."""
    rest = {"classification": "Animals", "image_amount_in_total": len(images), "overall_rating": 5}
    return [
        {"image_path": path, "prompt_id": f"id-{prompt}", "prompt": prompt, "rank": rank, **rest}
        for path, rank in images
    ]


@pytest.mark.parametrize("write", [write_json, table], ids=["json", "parquet"])
def test_image_reward_db_has_all_pairs_of_a_prompt_whose_ranks_differ(
    tmp_path: Path, write: Callable[[Path, list[dict[str, Any]]], Path]
) -> None:
    file = tmp_path / ("x.json" if write is write_json else "x.parquet")
    first = ranked("p", ("a", 3), ("b", 1), ("c", 3), ("b", 2), ("d", None))
    second = ranked("q", ("a", 1), ("e", 5))
    rows = [*first[:2], *second, *first[2:], *ranked("alone", ("f", 1)), *ranked("", ("a", 1), ("b", 2))]
    left_out: Counter[str] = Counter()
    pairs = [
        (pair.preferred.path, pair.other.path, pair.prompt)
        for pair in read_pairs("image_reward_db", write(file, rows), left_out)
    ]
    assert pairs == [("b", "a", "p"), ("b", "a", "p"), ("b", "c", "p"), ("b", "c", "p"), ("a", "e", "q")]
    assert left_out == {
        "ties": 1,
        "with the same image twice": 1,
        "images without a path or rank": 1,
        "prompts with fewer than two usable images": 1,
        "without a caption": 1,
    }


def test_table_without_ranks_is_no_image_reward_db(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "rank"} for row in ranked("p", ("a", 1), ("b", 2))]
    for file in (table(tmp_path / "x.parquet", rows), write_json(tmp_path / "x.json", rows)):
        with pytest.raises(ValueError, match=r"expected ImageRewardDB .* got (a table without|no entry with .*) ?rank"):
            list(read_set(PAIR_SETS["image_reward_db"], [file], Counter()))


def test_hpdv3_prefers_the_first_path(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "path1": "a", "path2": "b", "choice_dist": None, "confidence": None},
        {"prompt": "p", "path1": "a", "path2": "a"},
    ]
    file = write_json(tmp_path / "train.json", rows)
    assert paths_of("hpdv3", file) == ([("a", "b")], {"with the same image twice": 1})


def test_entries_that_cannot_be_used_are_counted_and_the_others_read(tmp_path: Path) -> None:
    good = {"prompt": "p", "file_path": ["a", "b"], "human_preference": [1, 0]}
    rows = [
        3,
        {**good, "human_preference": [1]},
        {**good, "human_preference": [2, 0]},
        {**good, "human_preference": [None, 0]},
        {**good, "file_path": ["a", None]},
        {**good, "prompt": 7},
        {"prompt": "p", "image_path": ["a"], "rank": [1]},
        {"prompt": "p", "image_path": ["a", "b"]},
        good,
    ]
    assert paths_of("hpdv2", write_json(tmp_path / "x.json", rows)) == (
        [("a", "b")],
        {
            "without two images and as many votes or ranks": 4,
            "with other votes than 0 or 1 of two images": 1,
            "with votes or ranks that are no whole numbers": 1,
            "without paths of its images": 1,
            "with a caption that is no text": 1,
        },
    )
    rows = [{"prompt": "p", "path1": "a"}, {"prompt": "p", "path1": "a", "path2": "b"}]
    assert paths_of("hpdv3", write_json(tmp_path / "y.json", rows)) == ([("a", "b")], {"without path1 and path2": 1})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"prompt": "p"}, "got no list; name another file or another --set"),
        ([3], "got no entry with file_path, human_preference or image_path, rank; name"),
        ([{"prompt": "p", "path1": "a", "path2": "b"}] * 2, "got no entry with file_path, human_preference or"),
    ],
)
def test_json_of_another_format_is_refused(tmp_path: Path, rows: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(read_set(PAIR_SETS["hpdv2"], [write_json(tmp_path / "x.json", rows)], Counter()))


def test_converted_table_is_read_as_pairs_with_each_image_once(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "one",
            "chosen": {"bytes": picture(10), "path": "x"},
            "rejected": {"bytes": picture(20), "path": "y"},
        },
        {
            "prompt": "two",
            "chosen": {"bytes": picture(20), "path": "z"},
            "rejected": {"bytes": picture(30), "path": "w"},
        },
        {
            "prompt": "same",
            "chosen": {"bytes": picture(9), "path": "z"},
            "rejected": {"bytes": picture(9), "path": "w"},
        },
    ]
    found = convert(PAIR_SETS["open_image_preferences"], [table(tmp_path / "a.parquet", rows)], tmp_path / "out")
    assert (
        str(found) == f"{tmp_path / 'out' / 'pairs.jsonl'}: 2 pairs of 3 images, left out: 1 with the same image twice"
    )
    judged = load_judged(str(found.path), "pairs")
    assert judged.captions == ["one", "two"]
    assert [row.images for row in judged.rows] == [(0, 1), (1, 2)]
    assert (judged.images.load([0, 1, 2], 8)[:, 0, 0, 0] * 255).round().tolist() == [10, 20, 30]
    with pytest.raises(ValueError, match=r"a folder without pairs.jsonl"):
        convert(PAIR_SETS["open_image_preferences"], [tmp_path / "a.parquet"], tmp_path / "out")


def test_images_of_json_sets_stay_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "set" / "img").mkdir(parents=True)
    for name in "ab":
        (tmp_path / "set" / "img" / f"{name}.png").write_bytes(picture(10 if name == "a" else 20))
    rows = [{"prompt": "p", "path1": "img/a.png", "path2": "img/b.png"}]
    file = write_json(tmp_path / "set" / "train.json", rows)
    found = convert(PAIR_SETS["hpdv3"], [file], tmp_path / "deep" / "out")
    assert [path.name for path in found.path.parent.iterdir()] == ["pairs.jsonl"]
    assert json.loads(found.path.read_text())["preferred"] == "../../set/img/a.png"
    assert len(load_judged(str(found.path), "pairs").rows) == 1
    moved = convert(PAIR_SETS["hpdv3"], [file], tmp_path / "other", images=tmp_path / "set", limit=1)
    assert json.loads(moved.path.read_text())["other"] == "../set/img/b.png"


def test_repeated_and_contradicting_rows_of_a_set_are_written_and_counted(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    row = {"prompt": "p", "path1": "a.png", "path2": "b.png"}
    turned = {**row, "path1": "b.png", "path2": "a.png"}
    file = write_json(tmp_path / "train.json", [row, row, turned, {**turned, "prompt": "q"}])
    found = convert(PAIR_SETS["hpdv3"], [file], tmp_path / "out")
    assert str(found).endswith("4 pairs of 2 images, 1 repeat an earlier row, 3 contradict another row")
    assert len(load_judged(str(found.path), "pairs").rows) == 4


def test_pairs_whose_image_files_are_missing_are_left_out_with_a_hint(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png", "c.txt")
    rows = [{"prompt": "p", "path1": "a.png", "path2": name} for name in ("b.png", "gone.png", "go\0ne/b.png", "c.txt")]
    file = write_json(tmp_path / "train.json", rows)
    found = convert(PAIR_SETS["hpdv3"], [file], tmp_path / "out")
    assert (found.rows, found.images) == (1, 2)
    assert found.left_out["with a missing image file"] == 2
    assert found.left_out.total() == 3
    assert "2 with a missing image file (download and unpack them, or name their folder with --images)" in str(found)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"got none \(4 with a missing image file \(download .* --images\)\); name"):
        convert(PAIR_SETS["hpdv3"], [file], tmp_path / "none", images=tmp_path / "empty")


def test_command_converts_and_names_the_sets_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pairs", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name}: " in listed for name in PAIR_SETS)
    file = table(tmp_path / "a.parquet", [pick(1.0), pick(0.5)])
    command = ["pairs", str(file), "--set", "pick_a_pic", "--to", str(tmp_path / "out")]
    assert main(command) == 0
    assert "1 pairs of 2 images, left out: 1 ties" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == ["u-0.jpg", "u-1.jpg"]
    assert main(["pairs", str(file), "--set", "bogus", "--to", str(tmp_path / "more")]) == 2
    assert "--set open_image_preferences or pick_a_pic or hpdv2 or hpdv3" in capsys.readouterr().err


def test_uid_with_other_bytes_in_a_later_row_has_an_image_of_its_own(tmp_path: Path) -> None:
    rows = [pick(1.0), pick(1.0, jpg_0=picture(30, "JPEG")), pick(0.0), pick(1.0, jpg_0=picture(30, "JPEG"))]
    found = convert(PAIR_SETS["pick_a_pic"], [table(tmp_path / "a.parquet", rows)], tmp_path / "out")
    written = [json.loads(line) for line in found.path.read_text().splitlines()]
    contents = [(found.path.parent / row["preferred"]).read_bytes() for row in written]
    assert contents == [rows[0]["jpg_0"], rows[1]["jpg_0"], rows[2]["jpg_1"], rows[1]["jpg_0"]]
    assert found.images == 3
    assert "3 images, 1 repeat an earlier row, 2 contradict" in str(found)
    assert "1 image uid with several images, each under a name of its own" in str(found)


def test_images_that_cannot_be_written_are_counted_and_leave_no_file(tmp_path: Path) -> None:
    rows = [pick(1.0, image_1_uid="../x"), pick(1.0, jpg_1=b"text"), pick(1.0, image_0_uid="u-2", image_1_uid="u-3")]
    found = convert(PAIR_SETS["pick_a_pic"], [table(tmp_path / "a.parquet", rows)], tmp_path / "out", limit=1)
    assert found.left_out == {
        "with an image uid of other characters than letters, digits, _ and -": 1,
        "with bytes that are no image of JPEG, PNG, WEBP, BMP, GIF, TIFF, AVIF": 1,
    }
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == ["u-2.jpg", "u-3.jpg"]
    assert (found.rows, found.images) == (1, 2)


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("JPEG", ".jpg"),
        ("PNG", ".png"),
        ("WEBP", ".webp"),
        ("BMP", ".bmp"),
        ("GIF", ".gif"),
        ("TIFF", ".tif"),
        pytest.param(
            "AVIF", ".avif", marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
        ),
    ],
)
def test_images_of_every_format_that_a_run_reads_are_written_with_its_suffix(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    rows = [{"prompt": "p", "chosen": picture(200, kind), "rejected": picture(20, kind)}]
    found = convert(PAIR_SETS["open_image_preferences"], [table(tmp_path / "a.parquet", rows)], tmp_path / "out")
    assert {file.suffix for file in (tmp_path / "out" / "images").iterdir()} == {suffix}
    reds = load_judged(str(found.path), "pairs").images.load([0, 1], 8)[:, 0, 0, 0]
    # Formats with losses change a colour by some levels of 255.
    assert reds.tolist() == pytest.approx([200 / 255, 20 / 255], abs=0.03)


def test_pair_of_an_image_and_a_link_to_it_is_left_out_as_data_pairs_refuses_it(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    images(tmp_path / "train", "a.png", "b.png")
    (tmp_path / "train" / "link.png").symlink_to("a.png")
    rows = [
        {"prompt": "p", "path1": "train/a.png", "path2": "train/link.png"},
        {"prompt": "p", "path1": "train/a.png", "path2": "train/../train/a.png"},
        {"prompt": "p", "path1": "train/link.png", "path2": "train/b.png"},
        {"prompt": "p", "path1": "train/a.png", "path2": "train/b.png"},
    ]
    file = write_json(tmp_path / "train.json", rows)
    found = convert(PAIR_SETS["hpdv3"], [file], tmp_path / "out")
    assert found.left_out == {"with the same image twice": 2}
    assert "1 repeat an earlier row" in found.notes
    assert "1 repeat an earlier row" in str(load_judged(str(found.path), "pairs").note)


def test_set_without_a_usable_row_is_refused_with_the_reasons(tmp_path: Path) -> None:
    file = table(tmp_path / "a.parquet", [pick(0.5), pick(0.5), pick(1.0, jpg_0=b"text")])
    with pytest.raises(
        ValueError, match=r"one usable row of Pick-a-Pic .* got none \(2 ties, 1 with bytes .*\); name another"
    ):
        convert(PAIR_SETS["pick_a_pic"], [file], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_later_source_leaves_nothing_that_was_not_there(tmp_path: Path) -> None:
    good = table(tmp_path / "a.parquet", [pick(1.0)])
    damaged = tmp_path / "b.parquet"
    damaged.write_bytes(b"no table")

    def refuse(folder: Path) -> None:
        with pytest.raises(ValueError, match=r"b\.parquet: expected Pick-a-Pic"):
            convert(PAIR_SETS["pick_a_pic"], [good, damaged], folder)

    refuse(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()
    images = tmp_path / "mine" / "images"
    images.mkdir(parents=True)
    for file in (images / "u-0.jpg", images / "other.png", tmp_path / "mine" / "notes.txt"):
        file.write_bytes(picture(10, "JPEG"))
    refuse(tmp_path / "mine")
    assert sorted(path.name for path in images.iterdir()) == ["other.png", "u-0.jpg"]
    assert (tmp_path / "mine" / "notes.txt").exists()
    assert convert(PAIR_SETS["pick_a_pic"], [good], tmp_path / "mine").rows == 1


def test_given_images_of_a_json_set_stay_if_a_later_source_is_damaged(tmp_path: Path) -> None:
    images = tmp_path / "out" / "images"
    images.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (images / name).write_bytes(picture(10))
    good = write_json(tmp_path / "x.json", [{"prompt": "p", "path1": "a.png", "path2": "b.png"}])
    damaged = tmp_path / "y.json"
    damaged.write_text("no list")
    with pytest.raises(ValueError, match=r"y\.json: expected HPDv3"):
        convert(PAIR_SETS["hpdv3"], [good, damaged], tmp_path / "out", images)
    assert sorted(path.name for path in images.iterdir()) == ["a.png", "b.png"]


def confidences(folder: Path) -> list[float | None]:
    return [json.loads(line).get("confidence") for line in (folder / "pairs.jsonl").read_text().splitlines()]


def test_confidence_of_pick_a_pic_is_one_over_the_examples_of_its_prompt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [pick(1.0, num_example_per_prompt=4), pick(0.0, num_example_per_prompt=1)]
    file = table(tmp_path / "a.parquet", [*rows, pick(1.0, num_example_per_prompt=None)])
    words = ["pairs", str(file), "--set", "pick_a_pic", "--to"]
    assert main([*words, str(tmp_path / "plain")]) == 0
    assert confidences(tmp_path / "plain") == [None, None, None]
    assert "; confidence" not in capsys.readouterr().out
    assert main([*words, str(tmp_path / "weighed"), "--confidence"]) == 0
    assert confidences(tmp_path / "weighed") == [0.25, 1.0, None]
    assert (
        "confidence is 1 / num_example_per_prompt, 1 for 1 rows without it: train with algorithm.weights=confidence"
        in capsys.readouterr().out
    )
    labels = load_judged(str(tmp_path / "weighed" / "pairs.jsonl"), "pairs").labels
    assert (labels[:, 0] - labels[:, 1]).tolist() == [0.25, 1.0, 1.0]


def test_confidence_of_hpdv3_is_its_column_and_0_leaves_the_row_out(tmp_path: Path) -> None:
    values = [0.75, None, 0, 1]
    images(tmp_path, "a.png", "b.png")
    rows = [{"prompt": "p", "path1": "a.png", "path2": "b.png", "confidence": value} for value in values]
    file = write_json(tmp_path / "train.json", rows)
    found = convert(PAIR_SETS["hpdv3"], [file], tmp_path / "out", confidence=True)
    assert confidences(tmp_path / "out") == [0.75, None, 1.0]
    assert "left out: 1 with a weight of 0; confidence is the set's confidence, 1 for 1 rows" in str(found)
    plain = convert(PAIR_SETS["hpdv3"], [file], tmp_path / "plain")
    assert (plain.rows, confidences(tmp_path / "plain")) == (4, [None] * 4)


def test_weights_that_are_none_are_counted_if_asked_for(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    rows = [{"prompt": "p", "path1": "a.png", "path2": "b.png", "confidence": value} for value in (1.5, "x", 0.5)]
    found = convert(PAIR_SETS["hpdv3"], [write_json(tmp_path / "x.json", rows)], tmp_path / "v3", confidence=True)
    assert (confidences(tmp_path / "v3"), found.left_out) == ([0.5], {"with a confidence outside [0, 1]": 2})
    file = table(tmp_path / "a.parquet", [pick(1.0, num_example_per_prompt=count) for count in (0, 2)])
    found = convert(PAIR_SETS["pick_a_pic"], [file], tmp_path / "pick", confidence=True)
    counted = {"with num_example_per_prompt below 1 or no whole number": 1}
    assert (confidences(tmp_path / "pick"), found.left_out) == ([0.5], counted)


def test_weights_of_a_set_without_them_are_refused(tmp_path: Path) -> None:
    message = "--confidence: expected --set pick_a_pic or hpdv3, got hpdv2, which states no weight"
    with pytest.raises(ValueError, match=message):
        convert(PAIR_SETS["hpdv2"], [write_json(tmp_path / "x.json", [])], tmp_path / "out", confidence=True)
    assert not (tmp_path / "out").exists()

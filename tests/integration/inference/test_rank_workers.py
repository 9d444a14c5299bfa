"""Pair files ranked by several workers of Ray: against one process."""

import json
from pathlib import Path

import pytest

from srpo_ray.cli import main
from srpo_ray.evaluation.gallery import save_png, to_images
from srpo_ray.small_world.pairs import SmallWorldScenes
from tests.conftest import SMALL_WORLD


def test_two_workers_of_ray_write_the_file_of_one_process(
    tmp_path: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = SmallWorldScenes(4, 2)
    for index, image in enumerate(to_images(scenes.load(range(8), 64))):
        save_png(image, tmp_path / f"{index}.png", optimize=False)
    rows = [{"preferred": f"{i}.png", "other": f"{i + 1}.png", "prompt": scenes.captions[i]} for i in range(0, 8, 2)]
    (tmp_path / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["rank", str(SMALL_WORLD), "--pairs", str(tmp_path / "people.jsonl"), "--batch-size", "2", "--out"]
    assert main([*words, str(tmp_path / "one")]) == 0
    assert main([*words, str(tmp_path / "two"), "--num-workers", "2"]) == 0
    lines = [(tmp_path / name / "pairs.jsonl").read_text().splitlines() for name in ("one", "two")]
    one, two = ([json.loads(line) for line in each] for each in lines)
    assert len(one) == 4
    # Processes compute with other numbers of threads.
    for row, other in zip(one, two, strict=True):
        assert {**row, "scores": None} == {**other, "scores": None}
        assert {name: pytest.approx(values, rel=1e-4) for name, values in row["scores"].items()} == other["scores"]
    # An image that a worker cannot read is named, not Ray's error.
    (tmp_path / "0.png").write_bytes(b"no image")
    capsys.readouterr()
    assert main([*words, str(tmp_path / "three"), "--num-workers", "2"]) == 2
    assert "--pairs: expected readable images, got 1 of 2 that are not" in capsys.readouterr().err

from pathlib import Path

import torch

from srpo_ray.evaluation.gallery import before_after, save_png
from srpo_ray.training.health import idle_warning
from srpo_ray.training.run_folder import (
    RunFolder,
    adopt_untrained,
    append_row,
    load_pictures,
    read_rows,
    save_pictures,
)


def run(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.make()
    return folder


def test_untrained_evaluation_is_adopted_only_once_it_is_whole(tmp_path: Path) -> None:
    source, target = run(tmp_path / "source"), run(tmp_path / "target")
    assert not adopt_untrained(source, target)
    append_row(source.evaluations, {"step": 0, "panel/held_out": 0.5})
    append_row(source.evaluations, {"step": 10, "panel/held_out": 0.6})
    pictures = {3: torch.rand(3, 8, 8), 0: torch.rand(3, 8, 8)}
    save_pictures(source.base_pictures, pictures)
    assert not adopt_untrained(source, target)
    assert not target.evaluations.exists()

    image = torch.rand(1, 3, 8, 8)
    save_png(before_after(image, image, ["a"]), source.gallery)
    assert adopt_untrained(source, target)
    assert read_rows(target.evaluations) == [{"step": 0, "panel/held_out": 0.5}]
    adopted = load_pictures(target.base_pictures)
    assert list(adopted) == [0, 3]
    assert all(torch.equal(adopted[index], pictures[index]) for index in pictures)


def test_a_row_that_was_cut_off_is_not_read(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    append_row(folder.steps, {"step": 1})
    with folder.steps.open("a") as file:
        file.write('{"step": 2, "loss')
    assert read_rows(folder.steps) == [{"step": 1}]


def test_updates_without_gradient_are_warned_of(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    assert idle_warning(folder) is None
    append_row(folder.steps, {"step": 1, "step/gradient_norm": 0.3})
    assert idle_warning(folder) is None
    append_row(folder.steps, {"step": 2, "step/gradient_norm": 0.0})
    warning = idle_warning(folder)
    assert warning is not None
    assert "1 of 2 updates" in warning
    assert "algorithm.hinge" in warning

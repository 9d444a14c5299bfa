from pathlib import Path

import pytest
import torch

from srpo_ray.training.checkpoint import (
    complete_checkpoints,
    latest_checkpoint,
    latest_trained_file,
    read_checkpoint,
    save_checkpoint,
)


def save(folder: Path, step: int, kept: int = 3) -> Path:
    weights = {"a": torch.full((4,), float(step)), "b.c": torch.randn(2, 3)}
    return save_checkpoint(folder, step, weights, {"a/exp_avg": torch.ones(4)}, {"note": "x"}, kept)


def test_checkpoint_comes_back_as_it_was_written(tmp_path: Path) -> None:
    weights = {"a": torch.randn(5), "b.c": torch.randn(2, 3)}
    optimizer = {"a/exp_avg": torch.randn(5)}
    save_checkpoint(tmp_path, 20, weights, optimizer, {"epoch": 3}, kept=2)
    read = latest_checkpoint(tmp_path)
    assert read is not None
    assert (read.step, read.state) == (20, {"epoch": 3})
    assert all(torch.equal(read.weights[name], weights[name]) for name in weights)
    assert torch.equal(read.optimizer["a/exp_avg"], optimizer["a/exp_avg"])


@pytest.mark.parametrize("damage", ["flip a bit", "cut short", "remove"])
def test_damaged_checkpoint_is_named_and_the_one_before_it_is_used(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 10)
    file = save(tmp_path, 20) / "weights.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    elif damage == "cut short":
        file.write_bytes(content[:-8])
    else:
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"step_000020.*using the checkpoint before it"):
        read = latest_checkpoint(tmp_path)
    assert read is not None
    assert read.step == 10


def test_half_written_checkpoint_is_not_seen(tmp_path: Path) -> None:
    save(tmp_path, 10)
    (tmp_path / ".step_000020.123.partial").mkdir()
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step_000010"]


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step, kept=2)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step_000020", "step_000030"]


def test_protected_checkpoint_is_kept_however_old(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save_checkpoint(tmp_path, step, {"a": torch.ones(1)}, {"a/s": torch.ones(1)}, {}, kept=1, protected=10)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step_000010", "step_000030"]


def test_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected weights, optimizer and manifest"):
        read_checkpoint(tmp_path)


def test_pictures_need_the_weights_of_a_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    first, second = save(tmp_path, 10), save(tmp_path, 20)
    (second / "optimizer.safetensors").unlink()
    assert latest_trained_file(tmp_path) == (20, second / "weights.safetensors")
    (second / "weights.safetensors").write_bytes(b"cut short")
    with pytest.warns(UserWarning, match=r"step_000020.*using the checkpoint before it"):
        assert latest_trained_file(tmp_path) == (10, first / "weights.safetensors")
    average = {"a": torch.ones(4)}
    third = save_checkpoint(tmp_path, 30, average, {"a/s": torch.ones(1)}, {}, kept=1, average=average)
    assert latest_trained_file(tmp_path) == (30, third / "average.safetensors")

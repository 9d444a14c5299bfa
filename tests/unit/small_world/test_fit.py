"""Training resumes where it stopped and ends as if it had not."""

from pathlib import Path

import pytest
import torch
from torch import nn

from srpo_ray.small_world.build.fit import Recipe, fit

RECIPE = Recipe(steps=12, lr=0.5, seed=3)


class InterruptedByTestError(Exception):
    """Stands for a killed process."""


def _train(checkpoint: Path, fail_at: int | None = None) -> tuple[nn.Linear, list[float], list[tuple[int, float]]]:
    """Fits a line, with a checkpoint after every step; returns model, all step losses and the curve."""
    torch.manual_seed(0)
    model, seen = nn.Linear(1, 1), []

    def loss(rng: torch.Generator) -> torch.Tensor:
        if fail_at is not None and len(seen) == fail_at:
            raise InterruptedByTestError
        x = torch.randn(16, 1, generator=rng)
        value = (model(x) - (3 * x + 1)).square().mean()
        seen.append(float(value.detach()))
        return value

    curve = fit(model, loss, RECIPE, checkpoint)
    return model, seen, curve


def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srpo_ray.small_world.build.fit.SAVE_SECONDS", 0.0)
    whole, losses, _ = _train(tmp_path / "whole.pt")
    with pytest.raises(InterruptedByTestError):
        _train(tmp_path / "parted.pt", fail_at=5)
    parted, rest, _ = _train(tmp_path / "parted.pt")
    assert len(rest) == 12 - 5
    assert rest == pytest.approx(losses[5:])
    assert torch.equal(whole.weight, parted.weight)
    assert sum(losses[-3:]) < sum(losses[:3])


def test_a_finished_training_is_loaded_and_not_repeated(tmp_path: Path) -> None:
    first, _, curve = _train(tmp_path / "line.pt")
    again, steps, same_curve = _train(tmp_path / "line.pt")
    assert steps == []
    assert torch.equal(first.weight, again.weight)
    assert same_curve == curve
    assert curve[-1][0] == 12


def test_a_kill_while_writing_leaves_the_previous_checkpoint_whole(tmp_path: Path) -> None:
    whole, _, _ = _train(tmp_path / "line.pt")
    (tmp_path / "line.unfinished").write_bytes(b"half a file")
    again, steps, _ = _train(tmp_path / "line.pt")
    assert steps == []
    assert torch.equal(whole.weight, again.weight)

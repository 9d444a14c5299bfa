"""Values beyond the ends of a grid, and arms whose grid cannot be widened."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from srpo_ray.cli import main
from srpo_ray.config import ExperimentConfig
from srpo_ray.config.widening import value_beyond
from tests.conftest import SMALL_WORLD

LR = "training.optimizer.lr"


@pytest.mark.parametrize(
    ("given", "added", "lower", "upper"),
    [
        # Equal ratios.
        ([1e-6, 2e-6, 4e-6], [], 5e-7, 8e-6),
        ([1e-5, 1e-4], [], 1e-6, 1e-3),
        # The ratios are more even than the differences; each end has its own.
        ([1e-5, 3e-5, 1e-4], [], 3.33e-6, 3.33e-4),
        ([1e-5, 3e-5, 1e-4], [3.33e-4], 3.33e-6, 1.11e-3),
        # Equal differences.
        ([0.25, 0.5, 0.75], [], 0.0, 1.0),
        ([-1.0, 0.0], [], -2.0, 1.0),
        ([0.0, 0.1, 0.3], [], -0.1, 0.5),
        # Any order, and values that occur twice.
        ([4e-6, 1e-6, 2e-6, 2e-6], [], 5e-7, 8e-6),
        # Whole numbers stay whole and change.
        ([2, 4, 8], [], 1, 16),
        ([2, 4, 8], [1], 0, 16),
        ([10, 20, 30], [], 0, 40),
        ([10, 11], [], 9, 12),
        ([1, 2], [0], -1, 4),
        ([1, 1.5], [], 0.667, 2.25),
        # Three significant digits would not go beyond the end.
        ([1.0001, 1.0002], [], 1.0, 1.0003),
        ([10000, 10001], [], 9999, 10002),
    ],
)
def test_next_value_continues_the_ratio_or_the_difference_at_its_end(
    given: list[float], added: list[float], lower: float, upper: float
) -> None:
    found = [value_beyond(given, added, upper=end) for end in (False, True)]
    assert found == [lower, upper]
    assert [type(value) for value in found] == [type(lower), type(upper)]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "expected a `grid` of one path beside `widen` in arm 'SRPO', got none; remove `widen`"),
        ({LR: [1e-6, 2e-6], "seed2": [1, 2]}, f"got {LR}, seed2; remove `widen`, or search one path only"),
        ({"algorithm.query": ["relative", 1, True]}, "expected numbers .* got 'relative', True; other values have no"),
        ({LR: [1e-6, 1e-6]}, "expected two or more different numbers .* got .1e-06, 1e-06.; their distance"),
    ],
)
def test_grid_without_a_next_value_cannot_be_widened(grid: dict[str, Any], message: str) -> None:
    arm = {"name": "SRPO", "grid": grid, "widen": 1}
    with pytest.raises(ValueError, match=message):
        ExperimentConfig.model_validate({"base": "b.yaml", "arms": [arm]})


def test_space_cannot_be_widened() -> None:
    arm = {"name": "SRPO", "space": {LR: {"loguniform": [1e-6, 1e-5]}}, "widen": 1}
    with pytest.raises(ValueError, match="expected a `grid` of one path beside `widen` in arm 'SRPO', got none"):
        ExperimentConfig.model_validate({"base": "b.yaml", "arms": [arm]})


def test_votes_widen_no_grid() -> None:
    arm = {"name": "SRPO", "grid": {LR: [1e-6, 2e-6]}, "widen": 1}
    with pytest.raises(ValueError, match="expected no `widen` with objective votes, got it in arm 'SRPO'"):
        ExperimentConfig.model_validate({"base": "b.yaml", "arms": [arm], "objective": "votes"})


def test_negative_number_of_added_values_is_refused_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arm = {"name": "SRPO", "grid": {LR: [1e-6, 2e-6]}, "widen": -1}
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump({"base": str(SMALL_WORLD), "arms": [arm]}))
    assert main(["compare", str(file), "--dry-run"]) == 2
    assert "arms.0.widen: expected" in capsys.readouterr().err

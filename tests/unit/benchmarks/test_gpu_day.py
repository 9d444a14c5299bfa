"""Verdicts and pages of the GPU day, without a GPU."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from srpo_ray.config import load_run
from tests.conftest import ROOT, SMALL_WORLD


@pytest.fixture(autouse=True)
def benchmarks_on_the_path() -> Iterator[None]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.parametrize(
    ("intervals", "seconds"),
    [
        ([], 0.0),
        ([(0.0, 2e6), (3e6, 4e6)], 3.0),
        ([(3e6, 4e6), (0.0, 2e6)], 3.0),
        ([(0.0, 4e6), (1e6, 2e6), (3e6, 5e6)], 5.0),
    ],
)
def test_kernels_that_overlap_keep_a_gpu_busy_once(intervals: list[tuple[float, float]], seconds: float) -> None:
    from benchmarks.gpu_measure import busy_seconds

    assert busy_seconds(intervals) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("measured", "predicted", "met"),
    [
        (0.9, (0.9, 1.2), True),
        (0.61, (0.9, 1.2), True),
        (0.59, (0.9, 1.2), False),
        (1.59, (0.9, 1.2), True),
        (1.61, (0.9, 1.2), False),
        (579.0, (580.0, None), False),
        (9999.0, (580.0, None), True),
    ],
)
def test_range_is_met_within_a_third_and_a_limit_exactly(
    measured: float, predicted: tuple[float | None, float | None], met: bool
) -> None:
    from benchmarks.gpu_measure import row

    assert row("x", "s", measured, predicted)["met"] is met


def test_stage_that_misses_a_prediction_has_no_verification_level() -> None:
    from benchmarks.gpu_day import level

    assert level("roll", "passed", tiny=False) == "GPU, random weights"
    assert level("train", "passed", tiny=False) == "GPU, real weights"
    assert level("train", "passed", tiny=True) == "CPU, tiny models"
    assert {level("roll", status, tiny=False) for status in ("missed", "skipped", "failed")} == {None}


def test_commands_of_the_run_with_real_weights_train_and_export_one_run(tmp_path: Path) -> None:
    from benchmarks.gpu_models import Setting
    from benchmarks.gpu_runs import train_commands

    train, export = train_commands(Setting(config=(str(SMALL_WORLD),), out=tmp_path))
    config = load_run([train[4]], train[5:])
    assert (config.training.num_updates, config.training.checkpoint_interval) == (4, 3)
    assert export[3:] == ["export", f"{config.run_root}/{config.name}"]


def test_run_is_interrupted_once_its_checkpoint_is_saved(tmp_path: Path) -> None:
    from benchmarks.gpu_runs import interrupt_after_checkpoint

    events = tmp_path / "events.jsonl"
    row = '{"event": "checkpoint saved", "update": 3}'
    script = f"import time; open({str(events)!r}, 'w').write({row!r} + chr(10)); time.sleep(100)"
    began = time.monotonic()
    interrupt_after_checkpoint([sys.executable, "-c", script], events)
    assert time.monotonic() - began < 50


def test_stage_of_another_size_is_not_taken_for_this_one() -> None:
    from benchmarks.gpu_day import comparable

    alike: list[Any] = [comparable(px, 32, (), tiny=False) for px in (720, 720, 512)]
    assert alike[0] == alike[1] != alike[2]

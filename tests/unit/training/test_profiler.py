"""Traces of profiled updates."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from srpo_ray.config import load_run
from srpo_ray.training.meters import StageTimer
from srpo_ray.training.profiler import UpdateProfiler
from tests.conftest import SMALL_WORLD


def make_updates(profiler: UpdateProfiler, updates: range) -> None:
    timer = StageTimer()
    for update in updates:
        with profiler.update(update), timer.stage("rollout"):
            torch.mm(torch.ones(update, update), torch.ones(update, update))


def test_each_profiled_update_after_the_first_has_a_trace_with_its_stages(tmp_path: Path) -> None:
    make_updates(UpdateProfiler(tmp_path / "profile", 2, gpu=False), range(5, 10))
    traces = sorted((tmp_path / "profile").iterdir())
    assert [trace.name for trace in traces] == ["update_000006.json.gz", "update_000007.json.gz"]
    events = json.loads(gzip.decompress(traces[0].read_bytes()))["traceEvents"]
    names = [event.get("name") for event in events]
    assert names.count("aten::mm") == 1
    assert "rollout" in names


def test_run_without_profiled_updates_has_no_folder_of_traces(tmp_path: Path) -> None:
    make_updates(UpdateProfiler(tmp_path / "profile", 0, gpu=False), range(1, 3))
    assert not (tmp_path / "profile").exists()


def test_failed_update_leaves_no_trace(tmp_path: Path) -> None:
    profiler = UpdateProfiler(tmp_path / "profile", 1, gpu=False)
    make_updates(profiler, range(1, 2))
    with pytest.raises(RuntimeError, match="broken"), profiler.update(2):
        raise RuntimeError("broken")
    assert not (tmp_path / "profile").exists()


def test_profile_needs_an_update_before_it() -> None:
    with pytest.raises(ValueError, match="expected profile_updates to be below num_updates = 3, got 3"):
        load_run([SMALL_WORLD], ["training.num_updates=3", "training.profile_updates=3"])

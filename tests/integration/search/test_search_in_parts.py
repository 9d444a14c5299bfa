"""Whole searches in parts: promotion whose driver is killed in its second rung, and a population with its schedule."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from srpo_ray.cli import main
from srpo_ray.config import load_run
from srpo_ray.runs.checkpoint import read_checkpoint
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.runs.storage import Storage
from tests.conftest import SMALL_WORLD
from tests.integration.search.test_sweep_run import TINY

LR = "training.optimizer.lr"
CHEAP = {"evaluation.num_prompts": 1, "rollout.source": "base_model", "model.resolution": 32}
PROMOTION = {
    "type": "promotion",
    "rungs": [
        {"updates": 2, "keep": 0.5, "set": CHEAP},
        {"updates": 4},
    ],
}
PBT = {"type": "pbt", "perturb_interval": 2}
RUN = [argument for argument in TINY if not argument.startswith("experiment.")] + [
    "rewards.in_process=true",
    "evaluation.resolution=64",
]


def write(folder: Path, name: str, num_samples: int, scheduler: dict[str, Any]) -> None:
    space = {LR: {"loguniform": [2e-6, 1.5e-5]}}
    search = {"num_samples": num_samples, "scheduler": scheduler}
    values = {"name": name, "base": str(SMALL_WORLD), "seeds": [1], "search": search}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**values, "arms": [{"name": "SRPO", "space": space}]}))


def written(folder: Path) -> dict[Path, int]:
    """Rows of the finished runs, and when they were written."""
    files = [path.with_name("updates.jsonl") for path in folder.glob("trials/*/finished.json")]
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_killed_promotion_is_resumed_in_its_rung_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "promotion", 4, PROMOTION)
    folder = tmp_path / "runs" / "promotion"
    command = [sys.executable, "-m", "srpo_ray.cli", "sweep", "promotion.yaml", *RUN]
    with subprocess.Popen(command, start_new_session=True) as driver:
        for _ in range(4800):
            if list(folder.glob("trials/*_rung_2/start.json")):
                break
            assert driver.poll() is None, "the search ended before its second rung"
            time.sleep(0.05)
        os.killpg(driver.pid, signal.SIGKILL)
    before = written(folder)
    first = {path: time for path, time in before.items() if path.parent.name.endswith("_rung_1")}
    assert len(first) == 4
    assert main(["sweep", "--resume", str(folder)]) == 0
    after = written(folder)
    assert {path: after[path] for path in before} == before
    second = [path.parent for path in after if path.parent.name.endswith("_rung_2")]
    assert len(second) == 2
    for path in second:
        assert [row["update"] for row in read_rows(path / "updates.jsonl")] == [1, 2, 3, 4]
        config = load_run([path / "config.yaml"])
        source = RunFolder(config.start_from or "")
        assert (load_run([source.config]).model.resolution, config.model.resolution) == (32, 64)
        assert source.path.name == path.name.replace("rung_2", "rung_1")
        # The costs of the first rung are part of the trial's.
        assert read_rows(path / "updates.jsonl")[:2] == read_rows(source.updates)
    (search,) = json.loads((folder / "results.json").read_text())["searches"]
    assert [(rung["trials"], rung["promoted"], rung["made"]) for rung in search["rungs"]] == [(4, 2, 8), (2, 0, 4)]
    assert "12 of the 16 updates" in (folder / "report.html").read_text()


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_schedule_of_a_population_trains_again_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "pbt", 2, PBT)
    folder = tmp_path / "runs" / "pbt"
    assert main(["sweep", "pbt.yaml", *RUN]) == 0
    (search,) = json.loads((folder / "results.json").read_text())["searches"]
    copied = [member for member in search["rounds"][1]["members"] if member["copied"]]
    assert len(copied) == 1
    assert copied[0]["source"] != copied[0]["name"].replace("round_2", "round_1")
    assert main(["compare", str(folder / "schedule.yaml")]) == 0
    again = tmp_path / "runs" / "pbt_schedule" / "trials" / "SRPO_seed_1"
    ends = [read_checkpoint(Storage(RunFolder(path).checkpoints), 4) for path in (folder / "trials/SRPO_seed_1", again)]
    assert all(torch.equal(ends[1].weights[name], value) for name, value in ends[0].weights.items())

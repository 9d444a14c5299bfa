"""A search whose trials are forked from a process with their imports."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from srpo_ray.cli import main
from srpo_ray.runs.folder import RunFolder, read_rows
from tests.conftest import ROOT

SWEEP = ROOT / "configs" / "experiments" / "small_world_sweep.yaml"
TINY = (
    "training.num_updates=2",
    "training.batch_size=2",
    "rollout.num_steps=2",
    "evaluation.num_prompts=2",
    "evaluation.test=null",
    "evaluation.num_steps=2",
    "evaluation.gallery_size=2",
    "experiment.search.num_samples=1",
    "experiment.search.scheduler.grace_updates=1",
    "experiment.seeds=[]",
    "experiment.ablations=[]",
    "experiment.max_fall={}",
)


MEASURED = ("time/", "speed/", "memory/")


def arguments(root: Path) -> list[str]:
    return ["sweep", str(SWEEP), f"run_root={root}", *TINY]


def results(root: Path) -> list[dict[str, object]]:
    """Values of the trial's updates and evaluations that are no times, and no speeds."""
    folder = RunFolder(root / "small_world_sweep" / "trials" / "SRPO_trial_0")
    rows = [*read_rows(folder.updates), *read_rows(folder.evaluations)]
    return [{name: value for name, value in row.items() if not name.startswith(MEASURED)} for row in rows]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks workers")
def test_forked_trial_computes_the_values_of_one_that_ray_has_started(tmp_path: Path, ray_cluster: None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "srpo_ray.cli", *arguments(tmp_path / "forked")]
    driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    parents = dict[str, str]()
    while driver.poll() is None:
        for child in psutil.Process(driver.pid).children(recursive=True):
            # A process may end meanwhile.
            try:
                name, parent = "".join(child.cmdline()[:1]), child.parent()
                if name.startswith("ray::") and parent and parent.cmdline():
                    parents.setdefault(name.partition(".")[0].strip(), " ".join(parent.cmdline()))
            except psutil.Error:
                continue
        time.sleep(0.05)
    assert driver.returncode == 0
    assert "srpo_ray.launch.fork_server" in parents["ray::ImplicitFunc"]
    assert "srpo_ray.launch.fork_server" in parents["ray::RewardReplica"]
    assert main(arguments(tmp_path / "started")) == 0
    forked = results(tmp_path / "forked")
    assert len([row for row in forked if "loss/denoise" in row]) == 2
    assert len([row for row in forked if "evaluator/held_out" in row]) == 2
    assert forked == results(tmp_path / "started")

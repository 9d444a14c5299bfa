"""A whole sweep, whose driver is killed on the way."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from mlflow import MlflowClient
from ray.util import placement_group_table

from srpo_ray.cli import main
from srpo_ray.config import load_run
from srpo_ray.launch.train import train
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.runs.storage import Storage
from srpo_ray.runs.trained_weights import latest_trained, read_trained_weights
from tests.conftest import ROOT

TINY = [
    "training.num_updates=4",
    "training.batch_size=2",
    "training.checkpoint_interval=2",
    "rollout.num_steps=2",
    "evaluation.num_prompts=2",
    "evaluation.test.num_prompts=2",
    "evaluation.samples_per_prompt=1",
    "evaluation.num_steps=2",
    "evaluation.interval=2",
    "evaluation.gallery_size=2",
    "experiment.search.num_samples=3",
    "experiment.search.scheduler.grace_updates=2",
    "experiment.seeds=[1]",
    "experiment.ablations=[{name: late timesteps only, set: {algorithm.timestep_window: [30, 45]}}]",
    "experiment.max_fall={}",
]
PROMPTS = "a red circle on a gray background\na blue square on a black background\n"


@dataclass(frozen=True)
class Swept:
    """A sweep whose driver was killed when one trial had finished, and that was resumed."""

    root: Path
    """Where the person stood."""
    folder: Path
    commit: str
    """Of the person's working folder."""
    finished: dict[Path, int]
    """Rows of the trials that had finished before the kill, and when they had been written."""
    cut_off: Path
    """Folder of the trial that was at work."""
    printed: str
    """By the command that resumed."""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Iterator[Swept]:
    """The sweep, which is refused while its prompts are others; tests stand where the person stood."""
    root = tmp_path_factory.mktemp("swept")
    folder = root / "runs" / "small_world_sweep"
    (root / "prompts.txt").write_text(PROMPTS)
    commit = committed(root)
    script = ROOT / "experiments" / "sweep.py"
    config = ROOT / "configs" / "experiments" / "small_world_sweep.yaml"
    command = [sys.executable, str(script), str(config), *TINY, "data.prompts=prompts.txt"]
    with subprocess.Popen(command, cwd=root, start_new_session=True) as driver:
        finished, begun = wait_for_a_finished_and_a_begun_trial(folder, driver)
        workers = ray_workers(driver.pid)
        os.killpg(driver.pid, signal.SIGKILL)
    # A trial that Ray still starts would read the prompts of the next command.
    assert psutil.wait_procs(workers, timeout=120)[1] == []
    written = {trial / "updates.jsonl": (trial / "updates.jsonl").stat().st_mtime_ns for trial in finished}
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        # Paths in the config are relative to where the person stands, not to where Ray's processes run.
        patch.chdir(root)
        (root / "prompts.txt").write_text(PROMPTS.replace("red", "green"))
        with redirect_stderr(io.StringIO()) as refused:
            assert main(["sweep", "--resume", "runs/small_world_sweep"]) == 2
        assert "data.prompts:" in refused.getvalue()
        assert "prompts.txt (prompts)" in refused.getvalue()
        (root / "prompts.txt").write_text(PROMPTS)
        assert main(["sweep", "--resume", "runs/small_world_sweep"]) == 0
        yield Swept(root, folder, commit, written, begun, printed.getvalue())


def test_killed_sweep_is_resumed_without_repeating_finished_trials_and_leaks_nothing(swept: Swept) -> None:
    folder = swept.folder
    assert {path: path.stat().st_mtime_ns for path in swept.finished} == swept.finished
    results = json.loads((folder / "results.json").read_text())
    groups = [*results["searches"], *results["arms"]]
    rows = [results["baseline_row"], *(row for group in groups for row in group["rows"])]
    assert [row["kind"] for row in rows].count("trial") == 3
    assert {row["name"] for row in rows if row["kind"] == "base"} == {"baseline"}
    assert all(row["status"] in ("finished", "stopped early") for row in rows)
    baselines = (swept.root / "runs" / "cache" / "baselines").iterdir()
    # One of the validation prompts, of all runs, and one of the test prompts, which no trial sees; each with the scores
    # for all sets of control words of the config.
    sets = len(load_run([folder / "best.yaml"]).word_sets)
    assert [len(list(baseline.glob("*.safetensors"))) for baseline in baselines] == [1 + sets] * 2
    # Only these depend on the time and on the control words of a run.
    of_run = ("time/", "reward/total/")
    first = [
        {name: row["history"][0][name] for name in row["history"][0] if not name.startswith(of_run)} for row in rows
    ]
    assert all(row == first[0] for row in first)
    assert all(row["history"][0]["image/drift"] == 0 for row in rows)
    assert all(row["history"][-1]["image/drift"] > 0 for row in rows[1:])
    report = (folder / "report.html").read_text()
    assert "training.num_updates=4" in report
    assert all(row["name"] in report for row in rows)
    assert "small_world_sweep" in swept.printed

    best = load_run([folder / "best.yaml"])
    assert best.name == "small_world_sweep_best"
    assert main(["train", str(folder / "best.yaml"), "--dry-run"]) == 0

    client = MlflowClient(f"sqlite:///{swept.root / 'runs' / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'srpo_ray'")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(rows) - 1
    assert {run.info.status for run in children} <= {"FINISHED", "KILLED"}
    assert {run.data.tags["git_commit"].removesuffix("-dirty") for run in runs} == {swept.commit}

    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "ray::PlacementGroupCleaner" not in processes
    assert not list(folder.glob("trials/*/ray")), "trials on one machine need no processes of Ray Train"
    states = {group["state"] for group in placement_group_table().values()}
    assert states <= {"REMOVED"}


@pytest.mark.long
def test_trial_that_a_kill_cut_off_ends_as_a_run_in_peace(swept: Swept) -> None:
    trial = RunFolder(swept.cut_off)
    found = latest_trained(Storage(trial.checkpoints))
    assert found is not None
    step, weights = found
    alone = train(load_run([trial.config], ["name=alone", "run_root=alone"]))
    expected = read_trained_weights(Storage(alone.checkpoints), step)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


@pytest.mark.long
def test_killed_search_with_tpe_repeats_its_draws_and_trains_them(tmp_path: Path, ray_cluster: None) -> None:
    """A dimension has a condition, and the earlier trials are those of the same search with another seed."""
    config = ROOT / "configs" / "experiments" / "small_world_sweep.yaml"
    space = {
        "algorithm.query": {"choice": ["relative", "guided"]},
        "algorithm.hinge": {"uniform": [0, 2], "when": {"algorithm.query": "relative"}},
        "training.optimizer.lr": {"loguniform": [1e-6, 1e-4]},
    }
    own = [
        *("experiment.search.searcher=optuna", "experiment.search.startup_trials=1", "experiment.seeds=[]"),
        *("experiment.ablations=[]", f"experiment.arms.0.space={json.dumps(space)}"),
    ]
    script = ROOT / "experiments" / "sweep.py"
    command = [sys.executable, str(script), str(config), *TINY, *own]
    folder = tmp_path / "runs" / "small_world_sweep"
    journal = folder / "searches" / "SRPO.jsonl"
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True) as driver:
        wait_for_a_finished_and_a_begun_trial(folder, driver)
        os.killpg(driver.pid, signal.SIGKILL)
    before = draws(journal)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main(["sweep", "--resume", "runs/small_world_sweep"]) == 0
        again = ["experiment.name=again", f"experiment.search.points_from=[{folder}]", "experiment.search.seed=1"]
        assert main(["sweep", str(config), *TINY, *own, *again]) == 0
    after = draws(journal)
    assert len(after) == 3
    assert before.items() <= after.items()
    (search,) = json.loads((folder / "results.json").read_text())["searches"]
    for number, values in after.items():
        row = next(row for row in search["rows"] if row["name"] == f"SRPO_trial_{number}")
        assert ("algorithm.hinge" in row["params"]) == (row["params"]["algorithm.query"] == "relative")
        assert {path: row["params"][path] for path in values} == values
        trained = load_run([folder / "trials" / row["name"] / "config.yaml"])
        assert trained.training.optimizer.lr == values["training.optimizer.lr"]
    finished = sum(row["status"] == "finished" for row in search["rows"])
    notes = json.loads((folder.with_name("again") / "results.json").read_text())["notes"]
    assert any(f"earlier trials of {folder}: {finished} observed" in note for note in notes)


def ray_workers(driver: int) -> list[psutil.Process]:
    """The processes of a driver's Ray that run its trials and rewards, or wait for them."""
    children = psutil.Process(driver).children(recursive=True)
    return [child for child in children if "".join(child.cmdline()[:1]).startswith("ray::")]


def draws(journal: Path) -> dict[int, dict[str, Any]]:
    """Values of each trial that a searcher has drawn, by number."""
    return {row["trial"]: row["values"] for row in read_rows(journal) if "values" in row}


def committed(folder: Path) -> str:
    """The commit of a new repository in the folder."""
    name = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], [*name, "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return head.stdout.strip()


def wait_for_a_finished_and_a_begun_trial(folder: Path, driver: subprocess.Popen[bytes]) -> tuple[list[Path], Path]:
    """The folders of the trials that have finished, and of one that has not."""
    for _ in range(2400):
        begun = {path.parent for path in folder.glob("trials/*/config.yaml")}
        finished = {path.parent for path in folder.glob("trials/*/finished.json")}
        if finished and begun - finished:
            return sorted(finished), min(begun - finished)
        assert driver.poll() is None, "the sweep ended before a trial had finished"
        time.sleep(0.1)
    raise AssertionError("no trial finished within four minutes")

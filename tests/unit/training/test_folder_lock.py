"""The lock of a folder: one process at a time, freed by the system if its process is killed."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from srpo_ray.cli import main
from srpo_ray.config import load_run
from srpo_ray.inference.draw import run_chunks
from srpo_ray.launch import train
from srpo_ray.runs.folder_lock import folder_lock
from srpo_ray.search import experiment
from tests.conftest import ROOT, SMALL_WORLD

HOLDER = """
import sys
from pathlib import Path
from srpo_ray.runs.folder_lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds `tmp_path / "run"`."""
    folder = tmp_path / "run"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_folder_of_another_process_is_refused_by_its_number(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"process {holder.pid} on \S+ at work in it; wait for it"):
        with folder_lock(tmp_path / "run"):
            pytest.fail("two processes hold one folder")


def test_killed_process_frees_its_folder(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    for _ in range(2):
        with folder_lock(tmp_path / "run"):
            assert (tmp_path / "run" / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_run_in_a_folder_of_another_process_is_refused_and_changes_nothing(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    config = load_run([SMALL_WORLD], [f"run_root={tmp_path}", "name=run"])
    with pytest.raises(ValueError, match=f"process {holder.pid}"):
        train.train(config)
    assert [file.name for file in (tmp_path / "run").iterdir() if file.is_file()] == [".lock"]


@pytest.mark.parametrize(("command", "file"), [("sweep", "small_world_sweep"), ("compare", "paper_table")])
def test_experiment_in_a_folder_of_another_process_is_refused_before_ray_starts_and_changes_nothing(
    holder: subprocess.Popen[str],
    command: str,
    file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(experiment, "ray_session", lambda _: pytest.fail("Ray was started"))
    source = str(ROOT / "configs" / "experiments" / f"{file}.yaml")
    assert main([command, source, f"run_root={tmp_path}", "experiment.name=run"]) == 2
    error = capsys.readouterr().err
    assert re.search(rf"expected \S+/run to be free, got process {holder.pid} on \S+ at work in it; wait for it", error)
    assert "Traceback" not in error
    assert [path.name for path in (tmp_path / "run").iterdir() if path.is_file()] == [".lock"]


def test_sampling_job_in_a_folder_of_another_process_is_refused(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job: Any = SimpleNamespace(folder=tmp_path / "run")
    work: Any = None
    monkeypatch.setattr("srpo_ray.inference.draw.open_folder", lambda _: None)
    with pytest.raises(ValueError, match=re.escape(f"process {holder.pid} on")):
        run_chunks(job, work, None, None)

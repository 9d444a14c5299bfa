"""`srpo-ray watch`: a run or an experiment as its files show it."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from srpo_ray.cli import main
from srpo_ray.live import watch as module
from srpo_ray.live.state import Progress, change_progress, read_progress, write_progress
from srpo_ray.live.view import run_folder
from srpo_ray.live.watch import Pulse, progress_of
from srpo_ray.runs.activity import report_activity
from tests.conftest import ROOT, SMALL_WORLD


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srpo_ray.live.display.LineDisplay.interval", 0.01)


@pytest.mark.parametrize(("state", "code"), [("finished", 0), ("failed", 1), ("interrupted", 1)])
def test_end_of_the_work_ends_the_watching_with_its_outcome(
    experiment: tuple[Path, Progress], capsys: pytest.CaptureFixture[str], state: str, code: int
) -> None:
    path, _ = experiment
    ending = threading.Timer(0.1, change_progress, [path], {"state": state, "message": "why it ended"})
    ending.start()
    assert main(["watch", str(path)]) == code
    ending.join()
    printed = capsys.readouterr().err.splitlines()
    assert "trial_1: at update 3/8: lr 1e-6" in printed[1]
    assert printed[-1] == f"{state}, 2 of 6 runs done, 1 running, 1 failed: why it ended"


def test_state_is_printed_once_as_a_table(
    experiment: tuple[Path, Progress], capsys: pytest.CaptureFixture[str]
) -> None:
    path, progress = experiment
    assert main(["watch", "--once", str(path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line[1:] for line in lines if line}
    assert rows["trial_0"] == ["0e-6", "8/8", "0.7500", "+0.2500", "done"]
    assert rows["trial_1"] == ["1e-6", "3/8", "0.5000", "-", "0:10", "running"]
    assert rows["trial_2"] == ["2e-6", "1/8", "-", "-", "failed"]
    assert rows["trial_3"] == ["3e-6", "0/8", "-", "-", "waiting"]
    assert rows["in"][:1] == ["progress,"]
    assert f"(process {os.getpid()} on {progress.host})" in " ".join(lines[-1])


def test_state_of_a_run_that_evaluates_is_how_much_of_it_is_done(
    experiment: tuple[Path, Progress], capsys: pytest.CaptureFixture[str]
) -> None:
    path, progress = experiment
    # The process of a run that has failed may have left the file.
    for index in (1, 2):
        report_activity(run_folder(path, progress, progress.runs[index]), "evaluation", 32, 96)
    assert main(["watch", "--once", str(path)]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["trial_1"][-2:] == ["evaluation", "32/96"]
    assert rows["trial_2"][-1] == "failed"


def test_table_of_ended_runs_has_no_empty_column(
    experiment: tuple[Path, Progress], capsys: pytest.CaptureFixture[str]
) -> None:
    path, progress = experiment
    for runs, shown in ((progress.runs[:3], True), (progress.runs[:1], False)):
        write_progress(path, replace(progress, runs=runs))
        assert main(["watch", "--once", str(path)]) == 0
        heading = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["run"])
        assert ("left" in heading.split()) == shown


def test_run_of_an_experiment_is_watched_on_its_own(
    experiment: tuple[Path, Progress], capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = experiment
    for name in ("trial_0", "trial_2"):
        (path / "trials" / name / "config.yaml").write_text("name: x\n")
    assert main(["watch", str(path / "trials" / "trial_0")]) == 0
    assert main(["watch", str(path / "trials" / "trial_2")]) == 1
    assert "trial_1" not in capsys.readouterr().err


def test_run_without_a_progress_file_is_read_from_its_workers_files(tmp_path: Path) -> None:
    shutil.copy(SMALL_WORLD, tmp_path / "config.yaml")
    assert progress_of(tmp_path).state == "running"
    (tmp_path / "finished.json").write_text("{}")
    found = progress_of(tmp_path)
    assert (found.state, found.kind, found.runs[0].num_updates) == ("finished", "run", 40)


def test_folder_of_no_run_is_refused_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(tmp_path)]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("srpo-ray: expected the folder of a run or an experiment")
    (tmp_path / "progress.json").write_text("{")
    assert main(["watch", "--once", str(tmp_path)]) == 2
    assert "damaged content" in capsys.readouterr().err


def test_ctrl_c_ends_the_watching_only(
    experiment: tuple[Path, Progress], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, progress = experiment

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", interrupt)
    assert main(["watch", str(path)]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "srpo-ray: stopped watching; the run goes on"
    assert read_progress(path) == progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that both clocks of `watch` have advanced."""
    now, start = [0.0], time.time()
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "time", lambda: start + now[0])
    return now


def test_driver_is_lost_when_its_process_is_gone_or_its_heartbeats_stop(clock: list[float]) -> None:
    here = Progress.start("one", "run", 1, [])
    gone = replace(here, pid=2**22 + 1)
    elsewhere = replace(gone, host=f"not-{socket.gethostname()}")
    pulses = {name: Pulse() for name in ("here", "gone", "elsewhere")}
    lost: dict[str, float] = {}
    for clock[0] in range(0, 300, 10):
        for name, progress in (("here", here), ("gone", gone), ("elsewhere", elsewhere)):
            if pulses[name].is_lost(progress):
                lost.setdefault(name, clock[0])
    assert lost == {"here": 180, "gone": 30, "elsewhere": 180}


def test_driver_on_a_machine_with_another_clock_is_not_lost(clock: list[float]) -> None:
    pulse = Pulse()
    for clock[0] in range(0, 600, 10):
        behind = replace(Progress.start("one", "run", 1, []), written=clock[0] - 1e6, host="another")
        assert not pulse.is_lost(behind)


def test_lost_driver_ends_the_watching(
    experiment: tuple[Path, Progress], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, progress = experiment
    write_progress(path, replace(progress, written=time.time() - 500))
    monkeypatch.setattr(module, "_UNCHANGED_S", 0.05)
    assert main(["watch", str(path)]) == 1
    assert "no sign of life of its driver" in capsys.readouterr().err
    assert main(["watch", "--once", str(path)]) == 1


def test_watching_needs_neither_torch_nor_ray(experiment: tuple[Path, Progress]) -> None:
    check = (
        "import sys\nfrom srpo_ray.cli import main\n"
        f"code = main(['watch', '--once', {str(experiment[0])!r}])\n"
        "sys.exit(code or sorted({'torch', 'ray', 'mlflow', 'scipy'} & set(sys.modules)) or None)"
    )
    found = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.stderr, found.returncode) == ("", 0)

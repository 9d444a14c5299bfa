"""Seconds until work begins on the small world: a run, the trials of a sweep, and a run that has lost a worker.

python benchmarks/start_times.py [--json FILE]

`first run` starts in an empty folder, so it samples images for the base model's evaluation
before its first update. `later run` finds that
evaluation in the cache of its `run_root`. The sweep has a `run_root` of its own, so it evaluates the base model too.
Each trial is counted from its turn, when the sweep reports that it runs: its rewards are loaded. Its process then
creates the folder of the run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from srpo_ray.live.state import UNBEGUN, read_progress
from srpo_ray.runs.folder import RunFolder, read_rows

ROOT = Path(__file__).parents[1]
RUN = ROOT / "configs" / "small_world.yaml"
SWEEP = ROOT / "configs" / "experiments" / "small_world_sweep.yaml"
SHORT = ("evaluation.interval=100", "training.checkpoint_interval=2")
POLL_S = 0.02
LIMIT_S = 300.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything once and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the seconds to this file")
    parsed = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        found = {
            "first run: first update": first_update(root, "first"),
            "later run: first update": first_update(root, "later"),
        }
        (first, second, *_), trials = trial_starts(root / "sweeps")
        found |= {"sweep: first update": first, "sweep: second trial": second}
        found |= {f"trial {number}: first update": seconds for number, seconds in enumerate(trials, 1)}
        found["lost worker: next update"] = restart(root)
    for name, seconds in found.items():
        print(f"{name:28} {seconds:6.1f} s")
    if parsed.json:
        parsed.json.write_text(json.dumps(found, indent=1) + "\n")


def start(command: str, file: Path, root: Path, *overrides: str) -> subprocess.Popen[bytes]:
    """Start a command of `srpo-ray` without output."""
    words = [sys.executable, "-m", "srpo_ray.cli", command, str(file), f"run_root={root}", *SHORT, *overrides]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> float:
    """Seconds until a condition holds.

    Raises:
        RuntimeError: If the process ends before, or after `LIMIT_S`.
    """
    began = time.monotonic()
    while not condition():
        if process.poll() is not None or time.monotonic() - began > LIMIT_S:
            raise RuntimeError(f"expected {process.args} to go on, got exit code {process.poll()}")
        time.sleep(POLL_S)
    return time.monotonic() - began


def first_update(root: Path, name: str) -> float:
    """Seconds from the command to the row of the first update."""
    process = start("train", RUN, root, f"name={name}", "training.num_updates=3")
    seconds = wait_for(lambda: bool(read_rows(RunFolder(root / name).updates)), process)
    process.wait()
    return seconds


def trial_starts(root: Path) -> tuple[list[float], list[float]]:
    """Seconds until the first updates of a sweep.

    Returns:
        From the command to the first update of each trial, sorted, and from the turn of each trial to its first update,
        in the order of their turns.
    """
    command = time.monotonic()
    search = (
        "experiment.name=sweep",
        "experiment.seeds=[]",
        "experiment.ablations=[]",
        "experiment.search.num_samples=6",
    )
    process = start("sweep", SWEEP, root, *search, "training.num_updates=5")
    began, first = dict[str, float](), dict[str, float]()
    while process.poll() is None:
        now = time.monotonic()
        for name in running(root / "sweep"):
            began.setdefault(name, now)
            if name not in first and read_rows(RunFolder(root / "sweep" / "trials" / name).updates):
                first[name] = now
        time.sleep(POLL_S)
    updates = sorted(moment - command for moment in first.values())
    return updates, [first[name] - began[name] for name in began if name in first]


def running(folder: Path) -> list[str]:
    """Names of the trials of a sweep whose turn has come: it reports that they run, or they have a folder."""
    progress = read_progress(folder)
    reported = [run.name for run in progress.runs if run.status not in UNBEGUN] if progress else []
    return list(dict.fromkeys([*reported, *(trial.name for trial in (folder / "trials").glob("*"))]))


def restart(root: Path) -> float:
    """Seconds from the loss of one of two workers to the row of the next update."""
    folder = RunFolder(root / "restart")
    changes = ("training.num_workers=2", "training.num_updates=12", "evaluation.test=null")
    process = start("train", RUN, root, "name=restart", *changes)
    wait_for(lambda: len(read_rows(folder.updates)) >= 5, process)
    workers(process)[-1].kill()
    killed = time.monotonic()

    def starts() -> int:
        return sum(row["event"] == "started" for row in read_rows(folder.events))

    wait_for(lambda: starts() == 2, process)
    known = len(read_rows(folder.updates))
    wait_for(lambda: len(read_rows(folder.updates)) > known, process)
    seconds = time.monotonic() - killed
    process.wait()
    return seconds


def workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Trainer workers of a command."""
    found = list[psutil.Process]()
    for child in psutil.Process(process.pid).children(recursive=True):
        # A process may end meanwhile.
        with suppress(psutil.Error):
            if "RayTrainWorker" in child.cmdline()[0]:
                found.append(child)
    return found


if __name__ == "__main__":
    main()

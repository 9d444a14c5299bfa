"""Stages of the GPU day that run other programs: the plan's check, and a short run from training to export."""

import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from gpu_measure import GPU, Row, row
from gpu_models import Setting

HERE = Path(__file__).parent
UPDATES = 3
"""Updates before the interruption; the resumed run makes one more."""
POLL_S, GRACE_S = 0.5, 60.0
"""Seconds between two looks at a run, and for its end after Ctrl-C."""
WITHIN = (0.85, 1.15)
"""Ratio of planned to measured memory at which the plan counts as right."""
SHORT = (
    "name=gpu_day",
    "training.batch_size=4",
    f"training.num_updates={UPDATES + 1}",
    f"training.checkpoint_interval={UPDATES}",
    "evaluation.num_prompts=2",
    "evaluation.samples_per_prompt=1",
    f"evaluation.interval={UPDATES}",
    "evaluation.test=null",
)
"""Overrides that make a run short."""
TINY = ("rewards.in_process=true", "rollout.num_steps=4", "evaluation.num_steps=2", "evaluation.gallery_size=2")


class SkippedError(Exception):
    """Stage that needs what the machine lacks; the message says what."""


def plan(setting: Setting) -> list[Row]:
    """Compare planned with measured memory: adapters at full depth, then all weights of fewer layers."""
    if not GPU:
        raise SkippedError("needs a CUDA GPU: the plan is compared with what the GPU's allocator counts")
    rows = []
    for name, arguments in {
        f"adapters of rank {setting.rank}": ["--lora", str(setting.rank)],
        "all weights, 4 + 8 blocks": ["--depth", "4", "8"],
    }.items():
        file = setting.out / "plan_check.json"
        command = [sys.executable, str(HERE / "plan_check.py"), *arguments, "--resolutions", str(setting.px)]
        subprocess.run([*command, "--json", str(file)], check=True)
        rows += [
            row(
                f"{name}, {each['part']}", "planned / measured", each["planned"] / each["measured"], WITHIN, tolerance=0
            )
            for each in json.loads(file.read_text())
        ]
    return rows


def train_commands(setting: Setting) -> tuple[list[str], list[str]]:
    """Commands of a short run with real weights: the one that trains and resumes it, and the one that exports it."""
    program, run_root = [sys.executable, "-m", "srpo_ray.cli"], setting.out / "runs"
    train = [*program, "train", *setting.config, *SHORT, f"run_root={run_root}"]
    return train, [*program, "export", str(run_root / "gpu_day")]


def interrupt_after_checkpoint(command: list[str], events: Path) -> None:
    """Run a training command until its first checkpoint is saved, then end it as Ctrl-C does.

    Args:
        command: The command.
        events: `events.jsonl` of the run.
    """
    from srpo_ray.runs.folder import CHECKPOINT_SAVED, read_rows

    process = subprocess.Popen(command)
    try:
        while process.poll() is None and not any(each["event"] == CHECKPOINT_SAVED for each in read_rows(events)):
            time.sleep(POLL_S)
        process.send_signal(signal.SIGINT)
        process.wait(GRACE_S)
    finally:
        process.kill()


def train(setting: Setting) -> list[Row]:
    """Train three updates, interrupt the run, resume it for the fourth, and export the weights."""
    run = setting.out / "runs" / "gpu_day"
    shutil.rmtree(run, ignore_errors=True)
    if setting.tiny:
        _train_here(run)
    elif not GPU:
        raise SkippedError("needs a CUDA GPU")
    elif not setting.config:
        raise SkippedError("needs a config whose weights are on this machine; give it with --config")
    else:
        command, export = train_commands(setting)
        interrupt_after_checkpoint(command, run / "events.jsonl")
        subprocess.run(command, check=True)
        subprocess.run(export, check=True)
    return _rows_of_run(run)


def _train_here(run: Path) -> None:
    """Train the small world in this process, with the loop of a worker but without Ray."""
    from srpo_ray.config import load_run
    from srpo_ray.inference.export import export_run
    from srpo_ray.launch.fit_here import fit_here
    from srpo_ray.launch.preflight import open_run_folder

    config = load_run([str(HERE.parent / "configs" / "small_world.yaml")], [*TINY, *SHORT, f"run_root={run.parent}"])
    folder = open_run_folder(config, run)
    for stop_at in (UPDATES, None):
        with suppress(SystemExit):
            fit_here(config, folder, None, StoppingHost(stop_at), name=config.name, commit=None)
    export_run(folder.path, folder.path / "export")


@dataclass(frozen=True)
class StoppingHost:
    """Process of a training loop that ends at an evaluation."""

    stop_at: int | None
    """Update of the evaluation; None does not end."""

    def report(self, row: dict[str, Any]) -> None:
        """End the loop if it is time."""
        if row["update"] == self.stop_at:
            raise SystemExit

    def leaving_nodes(self) -> frozenset[str]:
        """No node leaves."""
        return frozenset()


def _rows_of_run(path: Path) -> list[Row]:
    from srpo_ray.runs.folder import RunFolder, read_rows

    folder = RunFolder(path)
    updates, events = read_rows(folder.updates), read_rows(folder.events)
    resumed = [event["update"] for event in events if event["event"] == "started"][-1]
    exported = list((path / "export").rglob("*.safetensors"))
    rows = [
        row("updates made", "", float(len(updates)), (UPDATES + 1, None)),
        row("update that the resumed run starts from", "", float(resumed), (UPDATES, None)),
        row("files of exported weights", "", float(len(exported)), (1, None)),
    ]
    for name, unit in {"time/update": "s", "speed/tflops": "TFLOP/s", "speed/reward_wait_share": ""}.items():
        # The first update of each start includes one-time work.
        rows.append(row(f"{name}, median", unit, median(update[name] for update in updates[1:UPDATES])))
    return rows

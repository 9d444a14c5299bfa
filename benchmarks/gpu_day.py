"""First day on a GPU: measure each part of an update of FLUX.1-dev beside its prediction, in stages that resume.

    python benchmarks/gpu_day.py [--out gpu_day] [--stages env roll ...] [--again] [--px 720] [--rank 32]
                                 [--config FILE|KEY=VALUE ...] [--tiny]

A stage runs in a process of its own for less than 8 minutes and writes `<stage>.json`. The next start skips stages with
such a file, unless `--again` is given, and repeats those that failed or were skipped. At the end, `gpu_day.json` and
`gpu_day.md` have all stages. The models have random weights, so nothing is downloaded; only stage `train` needs a
config with real weights (`--config`). `--tiny` runs every stage on a CPU with the small world's model.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_S = 470
"""Seconds after which a stage is stopped."""
DONE = ("passed", "missed")
Result = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """Stage of the day."""

    module: str
    """Module with a function of the stage's name."""
    decides: str
    """Decision that its figures lead to."""
    weights: str = "random weights"
    """Weights on a GPU."""


STAGES = {
    "env": Stage("gpu_stages", "the ceiling `training.peak_tflops`, and whether the driver is new enough"),
    "roll": Stage("gpu_stages", "compiled blocks and the attention kernel of rollouts"),
    "vae": Stage("gpu_stages", "the decoder in the plan, `model.vae_checkpointing`, `model.vae_channels_last`"),
    "grad": Stage("gpu_stages", "`model.gradient_checkpointing` and compiled blocks in training"),
    "zero3": Stage("gpu_stages", "the stage of ZeRO: with ZeRO-3, does the GPU wait for the host?"),
    "hps": Stage("gpu_stages", "`dtype` of reward models"),
    "plan": Stage("gpu_runs", "whether `srpo-ray plan` can be trusted with memory"),
    "train": Stage("gpu_runs", "whether a run with real weights trains, resumes and exports", "real weights"),
}


def run_stage(name: str, setting: Any) -> Result:
    """Run a stage in this process."""
    import importlib

    import torch
    from gpu_runs import SkippedError

    from srpo_ray.search.publish import hardware

    started = time.monotonic()
    try:
        rows, status, reason = getattr(importlib.import_module(STAGES[name].module), name)(setting), "passed", ""
    except SkippedError as skipped:
        rows, status, reason = [], "skipped", str(skipped)
    if any(each["met"] is False for each in rows):
        status = "missed"
    return {
        "stage": name,
        "status": status,
        "reason": reason,
        "level": level(name, status, tiny=setting.tiny),
        "setting": comparable(setting.px, setting.rank, setting.config, tiny=setting.tiny),
        "hardware": hardware(),
        "torch": torch.__version__,
        "seconds": time.monotonic() - started,
        "rows": rows,
    }


def level(name: str, status: str, *, tiny: bool) -> str | None:
    """Verification level that a stage reached; None unless it passed."""
    if status != "passed":
        return None
    return "CPU, tiny models" if tiny else f"GPU, {STAGES[name].weights}"


def comparable(px: int, rank: int, config: tuple[str, ...], *, tiny: bool) -> Result:
    """Settings that two results of a stage must share for one to stand for the other."""
    return {"tiny": tiny} if tiny else {"tiny": False, "px": px, "rank": rank, "config": list(config)}


def run_in_process_of_its_own(name: str, options: argparse.Namespace, log: Path) -> Result | None:
    """Run a stage in a new process with a time limit; None if the process wrote its result."""
    command = [sys.executable, str(Path(__file__)), "--one", name, "--out", str(options.out)]
    command += ["--px", str(options.px), "--rank", str(options.rank), "--config", *options.config]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            code = process.wait(LIMIT_S)
            problem = f"exit code {code}"
        except subprocess.TimeoutExpired:
            code, problem = 1, f"stopped after {LIMIT_S} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code == 0:
        return None
    said = log.read_text(errors="replace").strip().split("\n")[-1]
    return {"stage": name, "status": "failed", "reason": f"{problem}: {said}; see {log}", "level": None, "rows": []}


def make_day(options: argparse.Namespace) -> list[Result]:
    """Run the stages that have no result yet, one after the other."""
    results = []
    for name in options.stages:
        file = options.out / f"{name}.json"
        found = json.loads(file.read_text()) if file.exists() else None
        setting = comparable(options.px, options.rank, tuple(options.config), tiny=options.tiny)
        if found and found["status"] in DONE and found.get("setting") == setting and not options.again:
            print(f"{name}: {found['status']} before", flush=True)
        else:
            file.unlink(missing_ok=True)
            failed = (
                write_one(name, options)
                if options.tiny
                else run_in_process_of_its_own(name, options, options.out / f"{name}.log")
            )
            if failed:
                file.write_text(json.dumps(failed, indent=1) + "\n")
            found = json.loads(file.read_text())
            print(f"{name}: {found['status']}{' ' + found['reason'] if found['reason'] else ''}", flush=True)
        results.append(found)
    return results


def write_one(name: str, options: argparse.Namespace) -> None:
    """Run a stage in this process, and write its result."""
    from gpu_models import Setting

    setting = Setting(options.px, options.rank, options.tiny, tuple(options.config), options.out)
    (options.out / f"{name}.json").write_text(json.dumps(run_stage(name, setting), indent=1) + "\n")


def page(results: list[Result]) -> str:
    """Text of the Markdown page: stages with their level, then every prediction beside its measurement."""
    lines = ["# GPU day", "", "| stage | status | verification level | machine | decides |", "|---|---|---|---|---|"]
    for each in results:
        status = each["status"] + (f": {each['reason']}" if each["reason"] else "")
        machine = f"{each['hardware']}, torch {each['torch']}" if "hardware" in each else "-"
        lines.append(
            f"| {each['stage']} | {status} | {each['level'] or '-'} | {machine} | {STAGES[each['stage']].decides} |"
        )
    heads = ("what", "predicted", "measured", "met", "TFLOP/s", "GPU idle", "peak / planned GiB")
    for each in results:
        if each["rows"]:
            lines += ["", f"## {each['stage']}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
            lines += [f"| {' | '.join(_cells(found))} |" for found in each["rows"]]
    return "\n".join(lines) + "\n"


def _cells(found: Result) -> list[str]:
    low, high = found["predicted"] or (None, None)
    ends = [f"{end:g}" for end in dict.fromkeys(end for end in (low, high) if end is not None)]
    predicted = (
        " to ".join(ends) if low is not None and high is not None else "".join(f"at least {end}" for end in ends)
    )
    measured = f"{found['measured']:.4g} {found['unit']}".strip()
    memory = [f"{found[key]:.2f}" if key in found else "-" for key in ("peak_gib", "planned_gib")]
    return [
        found["name"],
        predicted or "-",
        measured,
        {True: "yes", False: "NO", None: "-"}[found["met"]],
        f"{found['tflops']:.3g}" if "tflops" in found else "-",
        f"{found['idle_share']:.0%}" if "idle_share" in found else "-",
        " / ".join(memory),
    ]


def main() -> int:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_day"), help="folder of the results")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--again", action="store_true", help="repeat stages that are done")
    parser.add_argument("--px", type=int, default=720, help="resolution; predictions are for 720")
    parser.add_argument("--rank", type=int, default=32, help="rank of the adapters")
    parser.add_argument("--config", nargs="*", default=[], help="config of a run with real weights, for stage train")
    parser.add_argument("--tiny", action="store_true", help="the small world's model on a CPU")
    parser.add_argument("--one", choices=STAGES, help="run one stage in this process; the program calls itself so")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.one:
        write_one(options.one, options)
        return 0
    results = make_day(options)
    (options.out / "gpu_day.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "gpu_day.md").write_text(page(results))
    print(f"results: {options.out / 'gpu_day.md'}")
    return int(any(each["status"] == "failed" for each in results))


if __name__ == "__main__":
    sys.exit(main())

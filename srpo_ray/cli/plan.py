"""`srpo-ray plan`: estimate memory, communication and time of a run without starting it."""

import argparse
from pathlib import Path

from srpo_ray.cli.arguments import add_config, files_and_overrides

HELP = "estimate memory, communication and time per update without starting the run"
DOES_NOT_FIT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `plan`."""
    add_config(parser)
    parser.add_argument("--gpu", metavar="NAME", help="GPU model, such as H100, A100-80GB or L40S")
    parser.add_argument(
        "--gpu-memory", type=float, metavar="GIB", help="memory of one GPU (default: that of the GPU model)"
    )
    parser.add_argument(
        "--tflops", type=float, help="measured TFLOP/s of one GPU (default: a share of the GPU model's peak)"
    )
    parser.add_argument(
        "--bandwidth", type=float, metavar="GB/S", help="bandwidth at which one worker receives from the others"
    )
    parser.add_argument(
        "--storage", type=float, default=1.0, metavar="GB/S", help="rate at which checkpoints are written (default 1)"
    )
    parser.add_argument("--gpus-per-node", type=int, default=8, metavar="N", help="trainers per node (default 8)")
    parser.add_argument("--json", metavar="FILE", help="also write all figures to this file")


def run(parsed: argparse.Namespace) -> int:
    """Print the plan of a run, with changes that save memory if it does not fit. Exit code 1: it does not fit."""
    from srpo_ray.config import load_run

    files, overrides = files_and_overrides(parsed.config)
    config = load_run(files, overrides)
    from srpo_ray.planning.hardware import Hardware

    hardware = Hardware(
        parsed.gpu, parsed.gpu_memory, parsed.tflops, parsed.bandwidth, parsed.gpus_per_node, parsed.storage
    )
    import json
    from dataclasses import asdict

    from srpo_ray.planning.advice import advise
    from srpo_ray.planning.larger_rollouts import larger_rollouts
    from srpo_ray.planning.plan import make_plan
    from srpo_ray.planning.recomputation import compare_recomputation
    from srpo_ray.planning.report import plan_text
    from srpo_ray.planning.verification import verification

    plan = make_plan(config, hardware)
    advice = [] if plan.fits else advise(config, plan)
    verified, choice, larger = verification(files), compare_recomputation(config, plan), larger_rollouts(config, plan)
    remarks = [*([str(choice)] if choice else []), *([f"faster: {larger}"] if larger else [])]
    print(plan_text(plan, advice, verified, remarks), end="")
    if parsed.json:
        figures = {**plan.to_json(), "advice": [asdict(entry) for entry in advice], "verified": verified}
        figures["recomputation"] = asdict(choice) if choice else None
        Path(parsed.json).write_text(json.dumps(figures, indent=1) + "\n")
    return DOES_NOT_FIT if plan.fits is False else 0

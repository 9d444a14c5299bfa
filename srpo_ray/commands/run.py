"""One run: its training, its plan, its text features ahead."""

import argparse
import sys
from pathlib import Path

from srpo_ray.commands.inputs import files_and_overrides, report_input_issues

DOES_NOT_FIT = 1


def train(parsed: argparse.Namespace) -> int:
    """`train`: a run to its end, or on from where it stopped."""
    from srpo_ray.config import load_run, to_yaml

    files, overrides = files_and_overrides(parsed.config)
    config = load_run(files, overrides)
    if parsed.dry_run:
        print(to_yaml(config), end="")
        return 0
    from srpo_ray.launch import train as launch
    from srpo_ray.runs.warnings import warnings

    report_input_issues(config)
    folder = launch.train(config, parsed.address)
    for warning in warnings(folder):
        print(f"srpo-ray: {warning}", file=sys.stderr)
    print(f"run folder: {folder.path}\nbefore and after: {folder.gallery}")
    return 0


def plan(parsed: argparse.Namespace) -> int:
    """`plan`; exit code 1 says that the run does not fit."""
    from srpo_ray.config import load_run

    config = load_run(*files_and_overrides(parsed.config))
    from srpo_ray.planning.hardware import Hardware

    hardware = Hardware(parsed.gpu, parsed.gpu_memory, parsed.tflops, parsed.bandwidth, parsed.gpus_per_node)
    import json
    from dataclasses import asdict

    from srpo_ray.planning.advice import advise
    from srpo_ray.planning.plan import make_plan
    from srpo_ray.planning.report import plan_text

    made = make_plan(config, hardware)
    advice = [] if made.fits else advise(config, made)
    print(plan_text(made, advice), end="")
    if parsed.json:
        figures = {**made.to_json(), "advice": [asdict(entry) for entry in advice]}
        Path(parsed.json).write_text(json.dumps(figures, indent=1) + "\n")
    return DOES_NOT_FIT if made.fits is False else 0


def encode(parsed: argparse.Namespace) -> int:
    """`encode`: text features ahead of a run."""
    from srpo_ray.config import ConfigError, load_run, to_yaml

    files, overrides = files_and_overrides(parsed.config)
    config = load_run(files, overrides)
    if parsed.actors is not None and parsed.actors < 1:
        raise ConfigError(f"--actors: expected at least 1, got {parsed.actors}")
    if parsed.dry_run:
        print(to_yaml(config), end="")
        return 0
    from srpo_ray.launch.encode import encode as encode_ahead

    report_input_issues(config)
    found = encode_ahead(config, parsed.address, parsed.actors)
    done = f"{found.encoded} encoded now" if found.encoded else "none is missing"
    print(f"text features of {found.texts} texts, {done}: {found.folder}")
    return 0

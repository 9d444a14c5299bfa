"""`srpo-ray plan`: estimate memory, communication, time and money of a run or an experiment without starting it."""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srpo_ray.cli.arguments import add_config, files_and_overrides

if TYPE_CHECKING:
    from srpo_ray.planning.hardware import Hardware

HELP = "estimate memory, communication, time and money of a run or an experiment without starting it"
DOES_NOT_FIT = 1
_EXPERIMENT_OPTIONS = ("gpus", "nodes", "price", "reward_gpu")


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
    group = parser.add_argument_group("of an experiment file only")
    group.add_argument(
        "--gpus", type=float, metavar="N", help="GPUs of the cluster (default: those of all runs at once)"
    )
    group.add_argument("--nodes", type=int, metavar="N", help="nodes of the cluster, with --gpus-per-node GPUs each")
    group.add_argument(
        "--price", action="append", metavar="GPU=X", help="price per hour of a GPU model, such as H100=2.5; repeatable"
    )
    group.add_argument("--reward-gpu", metavar="NAME", help="GPU model of the reward replicas (default: --gpu)")


def run(parsed: argparse.Namespace) -> int:
    """Print the plan of a run or an experiment. Exit code 1: it does not fit."""
    files, overrides = files_and_overrides(parsed.config)
    if is_experiment(files):
        return _plan_experiment(parsed, files, overrides)
    if given := [name for name in _EXPERIMENT_OPTIONS if getattr(parsed, name) is not None]:
        option = f"--{given[0].replace('_', '-')}"
        raise ValueError(
            f"{option}: expected an experiment file, which has `arms`, got a run config; remove the option"
        )
    return _plan_run(parsed, files, overrides)


def is_experiment(files: Sequence[str]) -> bool:
    """Test whether the only file is an experiment file: it has arms, which no run config has.

    Raises:
        ValueError: If a file cannot be read, or an experiment file is given beside others.
    """
    from srpo_ray.config.load import read_yaml

    found = [file for file in files if "arms" in read_yaml(file)]
    if found and len(files) > 1:
        raise ValueError(f"expected one experiment file alone, got {len(files)} files; give its changes as a.b=value")
    return bool(found)


def _plan_run(parsed: argparse.Namespace, files: Sequence[str], overrides: Sequence[str]) -> int:
    from dataclasses import asdict

    from srpo_ray.config import load_run

    config = load_run(files, overrides)
    hardware = _hardware(parsed, parsed.gpu)
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
        _write_figures(parsed.json, figures)
    return DOES_NOT_FIT if plan.fits is False else 0


def _write_figures(file: str, figures: Mapping[str, Any]) -> None:
    try:
        Path(file).write_text(json.dumps(figures, indent=1) + "\n")
    except OSError as error:
        raise ValueError(f"--json: expected a writable file, got {file} ({error.strerror}); choose another") from error


def _plan_experiment(parsed: argparse.Namespace, files: Sequence[str], overrides: Sequence[str]) -> int:
    from srpo_ray.config import load_experiment
    from srpo_ray.config.budget import gpu_models

    config, base = load_experiment(files[0], [*overrides, *_own_overrides(parsed)])
    models = gpu_models(config.gpus, config.price)
    hardware = _hardware(parsed, models.trainers if models else None)
    from srpo_ray.planning.experiment_report import experiment_plan_text
    from srpo_ray.planning.experiment_runs import check_budget, make_experiment_plan
    from srpo_ray.planning.prices import Prices

    plan = make_experiment_plan(config, base, hardware, Prices.of(config), _cluster_gpus(parsed))
    check_budget(plan)
    print(experiment_plan_text(plan), end="")
    if parsed.json:
        _write_figures(parsed.json, plan.to_json())
    return DOES_NOT_FIT if plan.fits is False else 0


def _own_overrides(parsed: argparse.Namespace) -> list[str]:
    """Prices and GPU models of the command line as overrides of the experiment."""
    values = {"gpus.trainers": parsed.gpu, "gpus.rewards": parsed.reward_gpu}
    values["price"] = parse_prices(parsed.price) if parsed.price else None
    return [f"experiment.{path}={json.dumps(value)}" for path, value in values.items() if value is not None]


def _hardware(parsed: argparse.Namespace, gpu: str | None) -> "Hardware":
    from srpo_ray.planning.hardware import Hardware

    return Hardware(gpu, parsed.gpu_memory, parsed.tflops, parsed.bandwidth, parsed.gpus_per_node, parsed.storage)


def _cluster_gpus(parsed: argparse.Namespace) -> float | None:
    """GPUs of the cluster; None if neither option gives them.

    Raises:
        ValueError: If both options are given, or a number is not above 0.
    """
    if parsed.gpus is not None and parsed.nodes is not None:
        raise ValueError("--nodes: expected --gpus or --nodes, got both; remove one")
    gpus = parsed.gpus if parsed.nodes is None else parsed.nodes * parsed.gpus_per_node
    if gpus is not None and not 0 < gpus < math.inf:
        raise ValueError(f"--gpus, --nodes: expected a number above 0, got {gpus:g}; give what the cluster has")
    return gpus


def parse_prices(arguments: Sequence[str]) -> dict[str, float]:
    """Convert `GPU=X` arguments to prices by GPU model.

    Raises:
        ValueError: If one is not of that form, or two are for one model.
    """
    prices = {}
    for argument in arguments:
        name, _, price = argument.partition("=")
        if name in prices:
            raise ValueError(f"--price: expected one price for each GPU model, got two for {name}; remove one")
        try:
            prices[name] = float(price)
        except ValueError as error:
            raise ValueError(f"--price: expected GPU=X such as H100=2.5, got {argument!r}; correct it") from error
    return prices

"""`srpo-ray sweep`: search the hyperparameters of a method, and train the best setting with several seeds."""

import argparse

from srpo_ray.cli.experiment import add_experiment, run_experiment_command

HELP = "search hyperparameters of a method, train the best setting with several seeds, and write a report"
DEFAULT = "configs/experiments/small_world_sweep.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `sweep`."""
    add_experiment(parser, DEFAULT)


def run(parsed: argparse.Namespace) -> int:
    """Run a sweep from its search space to its report."""
    return run_experiment_command(parsed, DEFAULT, "experiments/sweep.py")

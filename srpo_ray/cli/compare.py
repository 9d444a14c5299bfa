"""`srpo-ray compare`: compare methods: search each, train with several seeds, and ablate one."""

import argparse

from srpo_ray.cli.experiment import add_experiment, run_experiment_command

HELP = "compare methods: search each, train with several seeds, and ablate one"
DEFAULT = "configs/experiments/paper_table.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `compare`."""
    add_experiment(parser, DEFAULT)


def run(parsed: argparse.Namespace) -> int:
    """Run a comparison from its arms to its report."""
    return run_experiment_command(parsed, DEFAULT, "experiments/paper_table.py")

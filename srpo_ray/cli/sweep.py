"""`srpo-ray sweep`: search hyperparameters, compare the best trial with a baseline, report."""

import argparse
import shlex

from srpo_ray.cli.arguments import add_experiment, load_or_resume, report_input_issues
from srpo_ray.cli.cluster_job import add_start, is_cluster_job, run_cluster_job
from srpo_ray.credentials import redact

HELP = "search hyperparameters, then train the best trial beside its comparisons and write a report"
DEFAULT = "configs/sweep/small_world.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `sweep`."""
    add_experiment(parser, "sweep", DEFAULT)
    add_start(parser)


def run(parsed: argparse.Namespace) -> int:
    """Run a sweep from its search space to its report."""
    if is_cluster_job(parsed):
        return run_cluster_job(parsed, _results_folder)
    from srpo_ray.config import SweepConfig, load_sweep, to_yaml

    sweep, base = load_or_resume(parsed, SweepConfig, load_sweep, DEFAULT)
    if parsed.dry_run:
        print(f"# the sweep\n{to_yaml(sweep)}---\n# the config that its runs start from\n{to_yaml(base)}", end="")
        return 0
    from srpo_ray.tuning.sweep import run_sweep

    report_input_issues(base)
    command = redact(shlex.join(["python", "experiments/sweep.py", *parsed.config]))
    report = run_sweep(sweep, base, parsed.address, command)
    print(f"report: {report}\nbest config: {report.with_name('best.yaml')}")
    return 0


def _results_folder(parsed: argparse.Namespace) -> str:
    from srpo_ray.config import SweepConfig, load_sweep

    if parsed.resume:
        return parsed.resume
    sweep, base = load_or_resume(parsed, SweepConfig, load_sweep, DEFAULT)
    return f"{base.run_root}/{sweep.name}"

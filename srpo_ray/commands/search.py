"""Many runs: a sweep of one method, a comparison of several. Both take an experiment file."""

import argparse
import shlex

from srpo_ray.commands.inputs import load_or_resume, report_input_issues
from srpo_ray.credentials import redact


def sweep(parsed: argparse.Namespace) -> int:
    """`sweep`: search the settings of a method."""
    return _run(parsed, "experiments/sweep.py")


def compare(parsed: argparse.Namespace) -> int:
    """`compare`: search and train several methods, ablate one."""
    return _run(parsed, "experiments/paper_table.py")


def _run(parsed: argparse.Namespace, script: str) -> int:
    config, base = load_or_resume(parsed)
    if parsed.dry_run:
        from srpo_ray.config import to_yaml

        print(f"# the experiment\n{to_yaml(config)}---\n# the config that its runs start from\n{to_yaml(base)}", end="")
        return 0
    from srpo_ray.search.experiment import run_experiment

    report_input_issues(base)
    # The command that the report shows.
    command = redact(shlex.join(["python", script, *parsed.config]))
    report = run_experiment(config, base, parsed.address, command, f"python {script} --resume")
    print(f"report: {report}\nbest config: {report.with_name('best.yaml')}")
    return 0

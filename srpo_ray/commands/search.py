"""Many runs: a sweep, a study of methods."""

import argparse
import shlex
from typing import TYPE_CHECKING

from srpo_ray.arguments import DEFAULT_STUDY, DEFAULT_SWEEP
from srpo_ray.commands.inputs import load_or_resume, report_input_issues
from srpo_ray.credentials import redact

if TYPE_CHECKING:
    from srpo_ray.config import RunConfig, StudyConfig, SweepConfig


def sweep(parsed: argparse.Namespace) -> int:
    """`sweep`: from the search space to the report."""
    from srpo_ray.config import SweepConfig, load_sweep

    sweep, base = load_or_resume(parsed, SweepConfig, load_sweep, DEFAULT_SWEEP)
    if parsed.dry_run:
        return _print_configs("the sweep", sweep, base)
    from srpo_ray.tuning.sweep import run_sweep

    report_input_issues(base)
    report = run_sweep(sweep, base, parsed.address, _typed("experiments/sweep.py", parsed))
    print(f"report: {report}\nbest config: {report.with_name('best.yaml')}")
    return 0


def study(parsed: argparse.Namespace) -> int:
    """`study`: from the arms to the page."""
    from srpo_ray.config import StudyConfig, load_study

    study, base = load_or_resume(parsed, StudyConfig, load_study, DEFAULT_STUDY)
    if parsed.dry_run:
        return _print_configs("the study", study, base)
    from srpo_ray.tuning.study import run_study

    report_input_issues(base)
    report = run_study(study, base, parsed.address, _typed("experiments/paper_table.py", parsed))
    print(f"report: {report}")
    return 0


def _typed(script: str, parsed: argparse.Namespace) -> str:
    """The command that the report shows."""
    return redact(shlex.join(["python", script, *parsed.config]))


def _print_configs(what: str, config: "SweepConfig | StudyConfig", base: "RunConfig") -> int:
    from srpo_ray.config import to_yaml

    print(f"# {what}\n{to_yaml(config)}---\n# the config that its runs start from\n{to_yaml(base)}", end="")
    return 0

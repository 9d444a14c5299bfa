"""`srpo-ray study`: compare algorithms over several seeds, with ablations."""

import argparse
import shlex

from srpo_ray.cli.arguments import add_experiment, load_or_resume, report_input_issues
from srpo_ray.cli.cluster_job import add_start, is_cluster_job, run_cluster_job
from srpo_ray.credentials import redact

HELP = "compare algorithms: tune each, train with several seeds, and ablate one"
DEFAULT = "configs/study/paper_table.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `study`."""
    add_experiment(parser, "study", DEFAULT)
    add_start(parser)


def run(parsed: argparse.Namespace) -> int:
    """Run a study from its arms to its report."""
    if is_cluster_job(parsed):
        return run_cluster_job(parsed, _results_folder)
    from srpo_ray.config import StudyConfig, load_study, to_yaml

    study, base = load_or_resume(parsed, StudyConfig, load_study, DEFAULT)
    if parsed.dry_run:
        print(f"# the study\n{to_yaml(study)}---\n# the config that its runs start from\n{to_yaml(base)}", end="")
        return 0
    from srpo_ray.tuning.study import run_study

    report_input_issues(base)
    command = redact(shlex.join(["python", "experiments/paper_table.py", *parsed.config]))
    report = run_study(study, base, parsed.address, command)
    print(f"report: {report}")
    return 0


def _results_folder(parsed: argparse.Namespace) -> str:
    from srpo_ray.config import StudyConfig, load_study

    if parsed.resume:
        return parsed.resume
    study, base = load_or_resume(parsed, StudyConfig, load_study, DEFAULT)
    return f"{base.run_root}/{study.name}"

"""Arguments and run of the commands that take an experiment file: `sweep` and `compare`."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from srpo_ray.cli.arguments import files_and_overrides, print_note
from srpo_ray.cli.cluster_job import add_start, is_cluster_job, run_cluster_job
from srpo_ray.credentials import redact
from srpo_ray.imports import large_imports

if TYPE_CHECKING:
    from srpo_ray.config import ExperimentConfig, RunConfig


def add_experiment(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the file and overrides of an experiment, and where it runs.

    Args:
        parser: Parser of the command.
        default: File that is read if none is given.
    """
    parser.add_argument(
        "config",
        nargs="*",
        metavar="EXPERIMENT|KEY=VALUE",
        help=f"experiment file (default {default}), then overrides: a.b=value of its base config, experiment.a=value of"
        " the experiment itself",
    )
    parser.add_argument("--resume", metavar="DIR", help="resume the experiment in this folder")
    add_start(parser)


def run_experiment_command(parsed: argparse.Namespace, default: str, script: str) -> int:
    """Run an experiment from its file to its report.

    Args:
        parsed: Arguments of `add_experiment`.
        default: File that is read if none is given.
        script: Script of the same experiment. The report and the hint to resume name it if the working folder has it.
    """
    if is_cluster_job(parsed):
        return run_cluster_job(parsed, lambda _: _results_folder(parsed, default))
    config, base = _load_or_resume(parsed, default)
    if parsed.dry_run:
        from srpo_ray.config import to_yaml

        print(f"# the experiment\n{to_yaml(config)}---\n# the config that its runs start from\n{to_yaml(base)}", end="")
        return 0
    # The scripts are in a clone only.
    program = ["python", script] if Path(script).exists() else ["srpo-ray", parsed.command]
    command = redact(shlex.join([*program, *parsed.config]))
    resume = redact(shlex.join([*program, *(["--address", parsed.address] if parsed.address else []), "--resume"]))
    from srpo_ray.launch.forking import forked_workers

    with forked_workers(base, parsed.address, print_note) as workers:
        with large_imports():
            from srpo_ray.search.experiment import run_experiment

        report = run_experiment(config, base, parsed.address, command, resume, print_note, workers)
    print(f"report: {report}\nbest config: {report.with_name('best.yaml')}")
    if base.tracking.register_as:
        from srpo_ray.inference.register import register_best

        print(register_best(base, report.parent) or "registered: nothing")
    return 0


def _load_or_resume(parsed: argparse.Namespace, default: str) -> "tuple[ExperimentConfig, RunConfig]":
    """Load an experiment and its base config from file and overrides, or from the folder that `--resume` names.

    Raises:
        ValueError: If a file cannot be used, or is given beside `--resume`.
    """
    from srpo_ray.config import load_experiment

    files, overrides = files_and_overrides(parsed.config)
    if parsed.resume:
        if files or overrides:
            raise ValueError("--resume takes the configs in its folder, so give no file or override beside it")
        from srpo_ray.search.folder import load_experiment_folder

        return load_experiment_folder(Path(parsed.resume))
    if len(files) > 1:
        raise ValueError(f"expected one file, got {len(files)}: {', '.join(files)}; give values as a.b=value")
    return load_experiment(files[0] if files else default, overrides)


def _results_folder(parsed: argparse.Namespace, default: str) -> str:
    if parsed.resume:
        return parsed.resume
    config, base = _load_or_resume(parsed, default)
    return f"{base.run_root}/{config.name}"

"""`srpo-ray encode`: compute the text features of a run ahead of training."""

import argparse

from srpo_ray.cli.arguments import add_config, files_and_overrides, report_text_issues
from srpo_ray.cli.cluster_job import add_start, is_cluster_job, run_cluster_job

HELP = "compute text features of a config's prompts ahead of training"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `encode`."""
    add_config(parser)
    parser.add_argument("--actors", type=int, metavar="N", help="worker processes (default: one per cluster GPU)")
    add_start(parser)


def run(parsed: argparse.Namespace) -> int:
    """Encode the texts of a run that the cache lacks."""
    if is_cluster_job(parsed):
        return run_cluster_job(parsed, _check)
    from srpo_ray.config import load_run, to_yaml

    config = load_run(*files_and_overrides(parsed.config))
    if parsed.actors is not None and parsed.actors < 1:
        raise ValueError(f"--actors: expected at least 1, got {parsed.actors}")
    if parsed.dry_run:
        print(to_yaml(config), end="")
        return 0
    from srpo_ray.launch.encode import encode

    report_text_issues(config)
    found = encode(config, parsed.address, parsed.actors)
    done = f"{found.encoded} encoded now" if found.encoded else "none is missing"
    print(f"text features of {found.texts} texts, {done}: {found.folder}")
    return 0


def _check(parsed: argparse.Namespace) -> None:
    """Report a mistake in the config before the job starts. The features stay on the cluster."""
    from srpo_ray.config import load_run

    load_run(*files_and_overrides(parsed.config))

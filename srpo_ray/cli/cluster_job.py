"""Arguments of the commands that start work on Ray: here, or with `--cluster` as a job of a cluster."""

import argparse
from collections.abc import Callable

from srpo_ray.cli.arguments import add_address

LAST_JOB = "last"


def add_start(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a command that starts work on Ray."""
    add_address(parser, "a local Ray")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and exit")
    parser.add_argument(
        "--cluster", metavar="FILE|URL", help="run as a job of this cluster: the file of `ray up`, or http://HOST:8265"
    )
    for option, action in (("--attach", "follow a running job"), ("--stop", "stop a job")):
        parser.add_argument(
            option,
            nargs="?",
            const=LAST_JOB,
            metavar="JOB",
            help=f"with --cluster: {action} and start none (default: the last job)",
        )


def is_cluster_job(parsed: argparse.Namespace) -> bool:
    """Test whether the arguments of `add_start` concern a job of a cluster."""
    return bool(parsed.cluster or parsed.attach or parsed.stop) and not parsed.dry_run


def run_cluster_job(parsed: argparse.Namespace, results_folder: Callable[[argparse.Namespace], str | None]) -> int:
    """Start a command as a job of the cluster, attach to a job, or stop one.

    Args:
        parsed: Arguments of the command, with those of `add_start`.
        results_folder: Loads the config, so that a mistake in it is reported before the job starts, and returns the
            folder of the results on the cluster. None if there is nothing to copy back.

    Returns:
        Exit code of the job; 130 if Ctrl-C detached from it or it was stopped.

    Raises:
        ValueError: If the arguments or the cluster cannot be used.
        ConnectionError: If the cluster does not answer.
    """
    if not parsed.cluster:
        raise ValueError("expected --cluster beside --attach or --stop, got none; a job is one of a cluster")
    if parsed.address:
        raise ValueError("expected --cluster or --address, got both; --address is for a node of the cluster itself")
    folder = None if parsed.attach or parsed.stop else results_folder(parsed)
    from srpo_ray.cluster.command import Command, attach, start, stop

    command = Command(parsed.command, _words(parsed))
    if parsed.stop:
        return stop(parsed.cluster, _job(parsed.stop))
    if parsed.attach:
        return attach(parsed.cluster, command, _job(parsed.attach))
    return start(parsed.cluster, command, folder)


def _job(name: str) -> str | None:
    return None if name == LAST_JOB else name


def _words(parsed: argparse.Namespace) -> tuple[str, ...]:
    """Arguments of the command on the cluster: all but those about the cluster."""
    words = list(parsed.config)
    for option in ("resume", "actors"):
        value = getattr(parsed, option, None)
        words += [f"--{option}", str(value)] if value is not None else []
    return tuple(words)

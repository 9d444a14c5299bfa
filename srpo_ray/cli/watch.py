"""`srpo-ray watch`: follow a run or an experiment from its files, or on a cluster."""

import argparse
import sys
from pathlib import Path

HELP = "follow a run or an experiment that was started elsewhere"
_INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `watch`."""
    parser.add_argument(
        "folder", metavar="FOLDER|NAME", help="folder of a run or an experiment; with --cluster its name or its job"
    )
    parser.add_argument("--once", action="store_true", help="print the state and exit")
    parser.add_argument(
        "--cluster", metavar="FILE|URL", help="follow it on this cluster: the file of `ray up`, or http://HOST:8265"
    )


def run(parsed: argparse.Namespace) -> int:
    """Follow a run until it ends. Ctrl-C ends the following, not the run."""
    try:
        if parsed.cluster:
            from srpo_ray.cluster.watch import watch_job

            return watch_job(parsed.cluster, parsed.folder, once=parsed.once)
        from srpo_ray.live.watch import show_once, watch

        return (show_once if parsed.once else watch)(Path(parsed.folder))
    except KeyboardInterrupt:
        print("srpo-ray: stopped watching; the run goes on", file=sys.stderr)
        return _INTERRUPTED

"""`srpo-ray replay`: upload the records of a run that MLflow has not received."""

import argparse

HELP = "upload metrics that were buffered while the MLflow server was unreachable"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `replay`."""
    parser.add_argument("run_dir", metavar="RUN", help="folder of the run")
    parser.add_argument("--uri", help="current address of the MLflow store (default: the address that the run used)")


def run(parsed: argparse.Namespace) -> int:
    """Upload the records and print their number."""
    from srpo_ray.runs.folder import RunFolder
    from srpo_ray.tracking.runs import replay_run

    folder = RunFolder(parsed.run_dir)
    print(f"{replay_run(folder.tracker_record, folder.tracker_spool, parsed.uri)} records sent")
    return 0

"""`srpo-ray replay`: send the records of a run that its trackers have not received."""

import argparse

HELP = "send metrics that were buffered while a tracker, such as the MLflow server, was unreachable"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `replay`."""
    parser.add_argument("run_dir", metavar="RUN", help="folder of the run")
    parser.add_argument("--uri", help="current address of the MLflow store (default: the address that the run used)")


def run(parsed: argparse.Namespace) -> int:
    """Send the records and print their number."""
    from srpo_ray.config import load_run
    from srpo_ray.runs.folder import RunFolder
    from srpo_ray.tracking.runs import replay_run
    from srpo_ray.tracking.sinks import check_sinks, open_sinks

    folder = RunFolder(parsed.run_dir)
    sinks = []
    if folder.config.exists() and folder.tracker_record.exists():
        config = load_run([folder.config])
        check_sinks(config.tracking)
        sinks = open_sinks(config, folder.tracker_record)
    print(f"{replay_run(folder.tracker_record, folder.tracker_spool, parsed.uri, sinks)} records sent")
    return 0

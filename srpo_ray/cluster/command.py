"""`--cluster`: a command as a job there, followed from here, in place of one on this machine."""

import argparse
import logging
import shlex
import sys
from pathlib import PurePosixPath

from srpo_ray.arguments import LAST_JOB
from srpo_ray.cluster.dashboard import Dashboard
from srpo_ray.cluster.follow import Output, follow
from srpo_ray.cluster.jobs import COMMAND, FOLDER, Jobs, exit_code
from srpo_ray.cluster.results import bring_back


def run_on_cluster(parsed: argparse.Namespace, folder: str | None) -> int:
    """Start the command as a job of the cluster, or attach to one; show its output; bring its report back.

    Args:
        parsed: Arguments of a command that takes `--cluster`.
        folder: Where the cluster puts the results, None if there is nothing to bring back.

    Returns:
        Exit code of the job; 130 if Ctrl-C left it running or it was stopped.

    Raises:
        ValueError: If the cluster cannot be used as given.
        ConnectionError: If it does not answer.
    """
    if folder and not folder.startswith("/") and PurePosixPath(folder).parts[0] != "runs":
        raise ValueError(
            f"expected run_root to be `runs` or an absolute path with --cluster, got results in {folder!r}; any"
            " other relative path goes with the job's working folder"
        )
    # Its notes about packages and streams would stand between the job's own lines.
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.WARNING)
    with Dashboard(parsed.cluster) as dashboard:
        try:
            jobs = dashboard.connect()
        except ConnectionError as error:
            raise ValueError(
                f"--cluster: expected a running cluster at {parsed.cluster}, got {error}; start it with `ray up` or"
                " correct the address"
            ) from error
        if parsed.stop:
            return _stop(jobs, parsed.stop)
        job = _find(jobs, parsed.attach) if parsed.attach else _start(jobs, parsed, folder)
        again = f"{_typed(parsed)} --cluster {shlex.quote(parsed.cluster)}"
        print(f"job {job}", file=sys.stderr)
        try:
            details = follow(dashboard.connect, job, Output(_write))
            return _finish(dashboard.connect(), job, exit_code(details))
        except KeyboardInterrupt:
            print(
                f"\ndetached; the job goes on. Attach again: {again} --attach {job}\nStop it: {again} --stop {job}",
                file=sys.stderr,
            )
            return 130
        except ConnectionError as error:
            raise ConnectionError(
                f"{error}; the job may well go on, attach again with: {again} --attach {job}"
            ) from error


def _start(jobs: Jobs, parsed: argparse.Namespace, folder: str | None) -> str:
    command = shlex.join(["python", "-m", "srpo_ray.cli", parsed.command, *_words(parsed)])
    entrypoint = f"python -m srpo_ray.cluster.on_head link && {command}"
    metadata = {COMMAND: _typed(parsed), **({FOLDER: folder} if folder else {})}
    return jobs.start(entrypoint, parsed.command, metadata)


def _finish(jobs: Jobs, job: str, code: int) -> int:
    folder = (jobs.details(job).metadata or {}).get(FOLDER)
    if code == 0 and folder:
        print(f"report and tables are now here: {bring_back(jobs, folder)}")
    elif code:
        print(f"srpo-ray: the job {job} ended with exit code {code}", file=sys.stderr)
    return code


def _stop(jobs: Jobs, job: str) -> int:
    job = _find(jobs, job)
    stopped = jobs.stop_job(job)
    print(f"job {job} {'is being stopped' if stopped else 'had ended already'}")
    return 0


def _find(jobs: Jobs, job: str) -> str:
    return jobs.last() if job == LAST_JOB else str(jobs.details(job).submission_id)


def _words(parsed: argparse.Namespace) -> list[str]:
    """What the job is given: the command's own arguments, without those about the cluster."""
    words = list(parsed.config)
    for option in ("resume", "actors"):
        value = getattr(parsed, option, None)
        words += [f"--{option}", str(value)] if value is not None else []
    return words


def _typed(parsed: argparse.Namespace) -> str:
    return shlex.join(["srpo-ray", parsed.command, *_words(parsed)])


def _write(text: str) -> None:
    print(text, end="", flush=True)

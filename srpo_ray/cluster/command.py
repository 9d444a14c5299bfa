"""Execution of an `srpo-ray` command as a Ray job: start it, follow its output, and download its report."""

import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

from srpo_ray.cluster.dashboard import Dashboard
from srpo_ray.cluster.follow import Output, follow
from srpo_ray.cluster.jobs import COMMAND, FOLDER, Jobs, exit_code
from srpo_ray.cluster.results import bring_back

DETACHED = 130
"""Exit code after Ctrl-C, which does not stop the job."""


@dataclass(frozen=True)
class Command:
    """Command line of a job."""

    name: str
    """Name of the command, such as `train`."""
    words: tuple[str, ...]
    """Arguments of the command on the cluster."""

    @property
    def typed(self) -> str:
        """Command as typed by the user."""
        return shlex.join(["srpo-ray", self.name, *self.words])

    @property
    def entrypoint(self) -> str:
        """Shell command of the job."""
        command = shlex.join(["python", "-m", "srpo_ray.cli", self.name, *self.words])
        return f"python -m srpo_ray.cluster.on_head link && {command}"


def start(cluster: str, command: Command, folder: str | None) -> int:
    """Start a command as a job of a cluster, print its output until it ends, and download its report.

    Args:
        cluster: Cluster file of `ray up`, or address of the dashboard.
        command: Command to run there.
        folder: Folder of the results on the cluster; None if there is nothing to download.

    Returns:
        Exit code of the job; 130 after Ctrl-C, which does not stop the job, or if the job was stopped.

    Raises:
        ValueError: If the cluster cannot be used, or the folder would be lost with the job.
        ConnectionError: If the cluster does not answer.
    """
    if folder and not folder.startswith("/") and PurePosixPath(folder).parts[0] != "runs":
        raise ValueError(
            f"expected run_root to be `runs` or an absolute path with --cluster, got results in {folder!r}; any"
            " other relative path is deleted with the job's working folder"
        )
    with connected(cluster) as (dashboard, jobs):
        metadata = {COMMAND: command.typed, **({FOLDER: folder} if folder else {})}
        return _follow(dashboard, jobs.start(command.entrypoint, command.name, metadata), command, cluster)


def attach(cluster: str, command: Command, job: str | None) -> int:
    """Print the output of a job until it ends, and download its report; errors and exit codes as for `start`.

    Args:
        cluster: Cluster file of `ray up`, or address of the dashboard.
        command: Command in the hint about attaching again.
        job: Id of the job; None uses the latest one.
    """
    with connected(cluster) as (dashboard, jobs):
        return _follow(dashboard, _find(jobs, job), command, cluster)


def stop(cluster: str, job: str | None) -> int:
    """Stop a job; errors as for `start`.

    Args:
        cluster: Cluster file of `ray up`, or address of the dashboard.
        job: Id of the job; None uses the latest one.

    Returns:
        Exit code 0.
    """
    with connected(cluster) as (_, jobs):
        job = _find(jobs, job)
        stopped = jobs.stop_job(job)
        print(f"job {job} {'is being stopped' if stopped else 'had ended already'}")
        return 0


@contextmanager
def connected(cluster: str) -> Iterator[tuple[Dashboard, Jobs]]:
    """Connect to a cluster for the block.

    Raises:
        ValueError: If no cluster answers there.
    """
    # Ray's log messages about packages and streams would interrupt the job's output.
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.WARNING)
    with Dashboard(cluster) as dashboard:
        try:
            jobs = dashboard.connect()
        except ConnectionError as error:
            raise ValueError(
                f"--cluster: expected a running cluster at {cluster}, got {error}; start it with `ray up` or"
                " correct the address"
            ) from error
        yield dashboard, jobs


def _follow(dashboard: Dashboard, job: str, command: Command, cluster: str) -> int:
    again = f"{command.typed} --cluster {shlex.quote(cluster)}"
    print(f"job {job}", file=sys.stderr)
    try:
        details = follow(dashboard.connect, job, Output(print_part))
        return finish(dashboard.connect(), job, exit_code(details))
    except KeyboardInterrupt:
        print(
            f"\ndetached; the job keeps running. Attach again: {again} --attach {job}\nStop it: {again} --stop {job}",
            file=sys.stderr,
        )
        return DETACHED
    except ConnectionError as error:
        raise ConnectionError(f"{error}; the job may still run, attach again with: {again} --attach {job}") from error


def finish(jobs: Jobs, job: str, code: int) -> int:
    """Download the results of a job that succeeded, or name the exit code of one that did not, and return the code."""
    folder = (jobs.details(job).metadata or {}).get(FOLDER)
    if code == 0 and folder:
        print(f"report and tables are now here: {bring_back(jobs, folder)}")
    elif code:
        print(f"srpo-ray: the job {job} ended with exit code {code}", file=sys.stderr)
    return code


def _find(jobs: Jobs, job: str | None) -> str:
    return jobs.last() if job is None else str(jobs.details(job).submission_id)


def print_part(text: str) -> None:
    """Print a part of a job's output as it is."""
    print(text, end="", flush=True)

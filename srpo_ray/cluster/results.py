"""A job's report from the cluster to this machine, by a second, short job: no ssh and no shared storage needed."""

import base64
import hashlib
import json
import shlex
import time
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ray.job_submission import JobStatus

from srpo_ray.cluster.jobs import Jobs
from srpo_ray.cluster.on_head import MARK

FETCH_TIMEOUT_S = 300.0
"""Longest wait for the job that sends the files."""


def bring_back(jobs: Jobs, folder: str) -> Path:
    """Copy report, tables, configs and images of a results folder to `runs/` here.

    Args:
        jobs: The cluster's job server.
        folder: The folder as the cluster knows it.

    Returns:
        The folder here.

    Raises:
        ConnectionError: If they could not be read there.
        ValueError: If the folder has no name of its own to be kept under here.
    """
    here = results_here(folder)
    job = jobs.start(f"python -m srpo_ray.cluster.on_head send {shlex.quote(folder)}", "results", {})
    deadline = time.monotonic() + FETCH_TIMEOUT_S
    while not (details := jobs.details(job)).status.is_terminal():
        if time.monotonic() > deadline:
            raise ConnectionError(f"the job {job}, which reads {folder}, has not ended within {FETCH_TIMEOUT_S:g} s")
        time.sleep(0.5)
    if details.status != JobStatus.SUCCEEDED:
        raise ConnectionError(f"the job {job}, which reads {folder}, ended with: {details.message}")
    write_files(jobs.get_job_logs(job).splitlines(), here)
    return here


def results_here(folder: str) -> Path:
    """Where a results folder of the cluster is kept here.

    Raises:
        ValueError: If it has no name of its own; anyone on the cluster may have written it into a job's metadata.
    """
    name = PurePosixPath(folder).name
    if name in ("", ".."):
        raise ValueError(
            f"expected a results folder such as runs/small_world_sweep, got {folder!r} in the job's metadata"
        )
    return Path("runs") / name


def write_files(lines: Iterable[str], here: Path) -> None:
    """Write the files that the lines of a job hold.

    Args:
        lines: Output of `on_head.send`, between other lines.
        here: Folder to write to.

    Raises:
        ValueError: If a name leaves the folder, or a content is not the one that was read.
    """
    for line in lines:
        if not line.startswith(MARK):
            continue
        file = json.loads(line.removeprefix(MARK))
        name, content = PurePosixPath(file["name"]), base64.b64decode(file["content"])
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(f"expected a file of the results folder, got {file['name']!r}, which is outside of it")
        if hashlib.sha256(content).hexdigest() != file["sha256"]:
            raise ValueError(f"expected {name} as the cluster read it, got another content; --attach brings it again")
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content)

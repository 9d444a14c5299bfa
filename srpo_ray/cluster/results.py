"""Download of a job's report by a second, short job, without ssh and shared storage."""

import base64
import hashlib
import json
import shlex
import time
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from ray.job_submission import JobStatus

from srpo_ray.cluster.jobs import Jobs
from srpo_ray.cluster.on_head import MARK
from srpo_ray.files import replacing

FETCH_TIMEOUT_S = 300.0
"""Timeout of the job that sends the files, in seconds."""


def bring_back(jobs: Jobs, folder: str, patterns: Sequence[str] = ()) -> Path:
    """Download report, tables, configs and images of a results folder to the local `runs/`.

    Args:
        jobs: Job server of the cluster.
        folder: Path of the folder on the cluster.
        patterns: Patterns of the files to download; empty takes those of `on_head.PATTERNS`.

    Returns:
        Local folder.

    Raises:
        ConnectionError: If the files cannot be read on the cluster.
        ValueError: If the path does not end in a usable folder name.
    """
    here = results_here(folder)
    words = shlex.join(["python", "-m", "srpo_ray.cluster.on_head", "send", folder, *patterns])
    job = jobs.start(words, "results", {})
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
    """Return the local path for a results folder of the cluster.

    Raises:
        ValueError: If the path has no usable name; anyone on the cluster may have written a job's metadata.
    """
    name = PurePosixPath(folder).name
    if name in ("", ".."):
        raise ValueError(
            f"expected a results folder such as runs/small_world_sweep, got {folder!r} in the job's metadata"
        )
    return Path("runs") / name


def write_files(lines: Iterable[str], here: Path) -> None:
    """Write the files in the output of a job.

    Args:
        lines: Output of `on_head.send`, possibly between other lines.
        here: Local folder.

    Raises:
        ValueError: If a name points outside the folder, or a content does not match its hash.
    """
    for line in lines:
        if not line.startswith(MARK):
            continue
        file = json.loads(line.removeprefix(MARK))
        name, content = PurePosixPath(file["name"]), base64.b64decode(file["content"])
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(f"expected a file of the results folder, got {file['name']!r}, which is outside it")
        if hashlib.sha256(content).hexdigest() != file["sha256"]:
            raise ValueError(f"expected {name} as the cluster read it, got other content; --attach downloads it again")
        with replacing(here / name) as unfinished:
            unfinished.write_bytes(content)

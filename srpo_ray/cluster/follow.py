"""Output of a job on this terminal until it ends, with reconnection."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable

import aiohttp
from ray.dashboard.modules.job.pydantic_models import JobDetails

from srpo_ray.cluster.jobs import Jobs

QUIET_S = 20.0
"""Seconds of silence after which a health check of the connection is made."""

GIVE_UP_S = 900.0
"""Seconds without an answer of the cluster after which following ends; the job may still run."""

LONGEST_PAUSE_S = 15.0

LOST = (aiohttp.ClientError, OSError, RuntimeError)
"""Errors that Ray's client raises if a connection ends; it has no narrower class for an interrupted stream."""


class Output:
    """Shown part of a job's output. A new connection sends the whole output again from the start."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._shown = 0
        self._sent = 0

    def restart(self) -> None:
        """Start again from the beginning of the output, for a new connection."""
        self._sent = 0

    def add(self, text: str) -> None:
        """Show the new part of `text`, the next piece from the connection."""
        self._write(text[max(0, self._shown - self._sent) :])
        self._sent += len(text)
        self._shown = max(self._shown, self._sent)


def follow(connect: Callable[[], Jobs], job: str, output: Output) -> JobDetails:
    """Show a job's output until the job has ended.

    Args:
        connect: Function that opens a connection; called again after each lost one.
        job: Id of the job.
        output: Output that is extended.

    Returns:
        Details of the ended job.

    Raises:
        ConnectionError: If the cluster has not answered for `GIVE_UP_S`.
        ValueError: If the cluster does not know the job.
    """
    pause, last_contact, lost = 1.0, time.monotonic(), False
    while True:
        try:
            jobs = connect()
            if lost:
                print("connected again", file=sys.stderr)
            pause, last_contact, lost = 1.0, time.monotonic(), False
            asyncio.run(_show(jobs, job, output))
            last_contact = time.monotonic()
            details = jobs.details(job)
            if details.status.is_terminal():
                return details
        except LOST as error:
            lost = True
            if time.monotonic() - last_contact > GIVE_UP_S:
                raise ConnectionError(
                    f"the cluster has not answered for {GIVE_UP_S / 60:g} minutes: {error}"
                ) from error
            print(f"connection lost, retry in {pause:g} s; the job keeps running ({error})", file=sys.stderr)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


async def _show(jobs: Jobs, job: str, output: Output) -> None:
    """Show the output of one connection until it ends."""
    output.restart()
    stream = aiter(jobs.tail_job_logs(job))
    while True:
        part = asyncio.ensure_future(_next(stream))
        # A suspended machine or a dropped route leaves a connection that is silent and never ends.
        while not (await asyncio.wait({part}, timeout=QUIET_S))[0]:
            try:
                await asyncio.to_thread(jobs.details, job)
            except OSError:
                part.cancel()
                raise
        text = part.result()
        if text is None:
            return
        output.add(text)


async def _next(stream: AsyncIterator[str]) -> str | None:
    return await anext(stream, None)

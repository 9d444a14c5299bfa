"""A job's output on this terminal until it ends, over as many connections as that takes."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable

import aiohttp
from ray.dashboard.modules.job.pydantic_models import JobDetails

from srpo_ray.cluster.jobs import Jobs

QUIET_S = 20.0
"""A connection that has been silent for so long is asked whether it is still there."""

GIVE_UP_S = 900.0
"""A cluster that has not answered for so long is given up; the job may well go on."""

LONGEST_PAUSE_S = 15.0

LOST = (aiohttp.ClientError, OSError, RuntimeError)
"""What Ray's client raises if a connection ends; it knows no narrower class for a stream that breaks off."""


class Output:
    """What of a job's output has been shown. A new connection sends all of it again, from the start."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._shown = 0
        self._sent = 0

    def restart(self) -> None:
        """A new connection begins."""
        self._sent = 0

    def add(self, text: str) -> None:
        """Show what of `text`, the next that a connection has sent, is new."""
        self._write(text[max(0, self._shown - self._sent) :])
        self._sent += len(text)
        self._shown = max(self._shown, self._sent)


def follow(connect: Callable[[], Jobs], job: str, output: Output) -> JobDetails:
    """Show a job's output until the job has ended.

    Args:
        connect: Gives a connection; called again for each that is lost.
        job: Id of the job.
        output: Where it is shown.

    Returns:
        What the server knows of the job that has ended.

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
            print(f"connection lost, trying again in {pause:g} s; the job goes on ({error})", file=sys.stderr)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


async def _show(jobs: Jobs, job: str, output: Output) -> None:
    """Show what one connection sends until it ends."""
    output.restart()
    stream = aiter(jobs.tail_job_logs(job))
    while True:
        part = asyncio.ensure_future(_next(stream))
        # A machine that was asleep or a dropped route leaves a connection that is silent and never ends.
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

"""Following of a job that was started before: its output, and copies of the live report on this machine."""

import re
import sys
import threading
from pathlib import Path

from srpo_ray.cluster.command import DETACHED, connected, finish, print_part
from srpo_ray.cluster.dashboard import Dashboard
from srpo_ray.cluster.follow import LOST, Output, follow
from srpo_ray.cluster.jobs import COMMAND, FOLDER, Jobs, exit_code
from srpo_ray.cluster.results import bring_back
from srpo_ray.files import write_text
from srpo_ray.reports.report import Refresh

COPY_S = 300.0
"""Seconds between two copies of the live report. Each copy is a short job, whose output the cluster's head stores."""
LIVE = ("report.html", "progress.json")
"""Files of a results folder that are copied while its job is at work."""
_LAST_LINES = 20
_LATE = re.compile(r'data-late-s="\d+"')
"""Attribute with the age in seconds from which a live page warns that it is too old."""


def watch_job(cluster: str, name: str, *, once: bool) -> int:
    """Print the output of a job until it ends, and keep a copy of its live report here.

    Args:
        cluster: Cluster file of `ray up`, or address of the dashboard.
        name: Name of the run or the experiment, or id of the job.
        once: Print the state and the last lines of the output, and copy the report once.

    Returns:
        Exit code of the job; 0 for one at work with `once`; 130 after Ctrl-C, which does not stop the job.

    Raises:
        ValueError: If the cluster cannot be used, or has no such job.
        ConnectionError: If the cluster does not answer.
    """
    with connected(cluster) as (dashboard, jobs):
        job = jobs.find(name)
        metadata = jobs.details(job).metadata or {}
        print(f"job {job}: {metadata.get(COMMAND, '')}", file=sys.stderr)
        if once:
            return _show_once(jobs, job, metadata.get(FOLDER))
        with ReportCopies(dashboard, metadata.get(FOLDER)):
            try:
                details = follow(dashboard.connect, job, Output(print_part))
            except KeyboardInterrupt:
                print("\nstopped watching; the job keeps running", file=sys.stderr)
                return DETACHED
        return finish(dashboard.connect(), job, exit_code(details))


def _show_once(jobs: Jobs, job: str, folder: str | None) -> int:
    details = jobs.details(job)
    print("\n".join(jobs.get_job_logs(job).splitlines()[-_LAST_LINES:]))
    print(f"{job}: {details.status.value}")
    if folder:
        print(f"report: {copy_report(jobs, folder)}")
    return exit_code(details) if details.status.is_terminal() else 0


def copy_report(jobs: Jobs, folder: str) -> Path:
    """Copy the live report of a results folder of the cluster, and return its path here.

    Raises:
        ConnectionError: If the files cannot be read on the cluster.
        ValueError: If the folder has no usable name.
    """
    page = bring_back(jobs, folder, LIVE) / LIVE[0]
    if page.exists():
        # A copy is older than the page on the cluster by up to the time between two copies.
        write_text(page, _LATE.sub(f'data-late-s="{Refresh.late_s + COPY_S:.0f}"', page.read_text(encoding="utf-8")))
    return page


class ReportCopies:
    """Context in which the live report is copied here again and again, in a thread.

    Args:
        dashboard: Connection to the cluster.
        folder: Folder of the results on the cluster; None copies nothing.
    """

    def __init__(self, dashboard: Dashboard, folder: str | None) -> None:
        self._dashboard = dashboard
        self._folder = folder
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._copy, name="report-copies", daemon=True)

    def __enter__(self) -> None:
        """Begin to copy."""
        if self._folder:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        """Stop; a copy that is under way is not waited for."""
        self._stopping.set()

    def _copy(self) -> None:
        told = False
        while not self._stopping.is_set():
            try:
                path = copy_report(self._dashboard.connect(), self._folder or "")
            except (*LOST, ValueError) as error:
                print(f"srpo-ray: no copy of the report now ({error})", file=sys.stderr)
            else:
                if not told:
                    print(f"srpo-ray: a copy of the report every {COPY_S / 60:g} min: {path}", file=sys.stderr)
                told = True
            self._stopping.wait(COPY_S)

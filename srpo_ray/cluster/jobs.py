"""Client of Ray's job server with timeouts, and the metadata of this project's jobs."""

import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import requests
from ray.dashboard.modules.job.pydantic_models import JobDetails
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

REQUEST_TIMEOUT_S = 10.0
"""Timeout of an answer, or of the next part of one, in seconds. Ray's client would wait forever."""

CHANGE_TIMEOUT_S = 90.0
"""Timeout of an upload or a start, in seconds: a head is busy for a while after its start."""

FOLDER, COMMAND = "srpo_ray_folder", "srpo_ray_command"
"""Metadata keys of this project's jobs: folder of the results, and command."""

EXCLUDES = ["/.git", "/.venv", "/runs", "/build", "/dist", "**/__pycache__", "**/*.egg-info"]
"""Patterns of the working folder that are not uploaded, besides those in `.gitignore`."""


class Jobs(JobSubmissionClient):
    """Client of the job server at `url`.

    Args:
        url: Address of the head's dashboard, `http://HOST:PORT`.
        token: Ray's authentication token; None sends none.

    Raises:
        ConnectionError: If nothing answers within `REQUEST_TIMEOUT_S`.
        ValueError: If the token is missing or wrong.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        # Ray prefers these variables to the given address.
        for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
            os.environ.pop(name, None)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            super().__init__(url, headers=headers)
        except AuthenticationError as error:
            sent = "another token" if token else "none"
            raise ValueError(
                f"expected the authentication token of the cluster at {url}, got {sent}; copy the cluster's file"
                " ~/.ray/auth_token to this machine, and set RAY_AUTH_MODE=token"
            ) from error
        except requests.HTTPError as error:
            raise ValueError(
                f"expected the dashboard of a Ray head at {url}, got an answer of another server: {error}"
            ) from error

    def _do_request(self, method: str, *arguments: Any, **options: Any) -> requests.Response:
        timeout = REQUEST_TIMEOUT_S if method == "GET" else CHANGE_TIMEOUT_S
        try:
            return super()._do_request(method, *arguments, timeout=timeout, **options)
        except requests.RequestException as error:
            raise ConnectionError(f"no answer within {timeout:g} s: {error}") from error

    def start(self, entrypoint: str, purpose: str, metadata: Mapping[str, str]) -> str:
        """Run a shell command on the head, in a copy of the working folder.

        Args:
            entrypoint: Shell command.
            purpose: Word for the job's id.
            metadata: Metadata of the job.

        Returns:
            Id of the job.

        Raises:
            ValueError: If the working folder is too large to upload.
            ConnectionError: If the head cannot start the job, or does not answer.
        """
        moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        try:
            return self.submit_job(
                entrypoint=entrypoint,
                submission_id=f"srpo-{purpose}-{moment}-{secrets.token_hex(2)}",
                runtime_env={"working_dir": ".", "excludes": EXCLUDES, "env_vars": {"PYTHONUNBUFFERED": "1"}},
                metadata=dict(metadata),
            )
        except RuntimeError as error:
            raise ConnectionError(f"the cluster could not start the job: {error}") from error

    def details(self, job: str) -> JobDetails:
        """Get the details of a job.

        Raises:
            ValueError: If the server does not know the job.
        """
        try:
            return self.get_job_info(job)
        except RuntimeError as error:
            if "404" not in str(error):
                raise ConnectionError(str(error)) from error
            known = ", ".join(details.submission_id or "" for details in self._ours()) or "none"
            raise ValueError(
                f"expected a job of the cluster, got {job!r}, which it does not know; it has {known}"
            ) from error

    def last(self) -> str:
        """Get the id of this project's latest job.

        Raises:
            ValueError: If there is none.
        """
        found = self._ours()
        if not found:
            raise ValueError("expected a job to attach to, got a cluster without jobs; remove --attach to start one")
        return str(found[0].submission_id)

    def find(self, name: str) -> str:
        """Get the id of this project's latest job with that id, or whose results folder has that name.

        Raises:
            ValueError: If there is none.
        """
        ours = self._ours()
        for details in ours:
            if name in (details.submission_id, PurePosixPath((details.metadata or {}).get(FOLDER, "")).name):
                return str(details.submission_id)
        folders = ((details.metadata or {}).get(FOLDER, "") for details in ours)
        known = ", ".join(dict.fromkeys(filter(None, (PurePosixPath(folder).name for folder in folders)))) or "none"
        raise ValueError(f"expected a run or a job of the cluster, got {name!r}; it has {known}")

    def _ours(self) -> list[JobDetails]:
        """List the jobs of this project, the newest first."""
        ours = [details for details in self.list_jobs() if COMMAND in (details.metadata or {})]
        return sorted(ours, key=lambda details: details.start_time or 0, reverse=True)


def exit_code(details: JobDetails) -> int:
    """Return the exit code of an ended job: its own, 130 if it was stopped, 1 if it never ran."""
    if details.status == JobStatus.STOPPED:
        return 130
    if details.driver_exit_code is not None:
        return details.driver_exit_code
    return 0 if details.status == JobStatus.SUCCEEDED else 1

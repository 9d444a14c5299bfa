"""Connection to a cluster's dashboard: by its address, or through an ssh tunnel of Ray's cluster launcher."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import yaml

from srpo_ray.cluster.jobs import Jobs
from srpo_ray.extras import require_package

TUNNEL_TIMEOUT_S = 60.0
"""Timeout of opening a tunnel: the launcher asks the cloud for the head's address, then ssh connects."""

DASHBOARD_PORT = 8265

CLOUD_PACKAGES = {"aws": "boto3", "gcp": "googleapiclient"}
"""Cloud of a cluster file -> package with which Ray's launcher finds the head; the extra has the cloud's name."""


class Dashboard:
    """Dashboard of a cluster's head.

    Args:
        cluster: Cluster file of `ray up`, or `http://HOST:PORT`.

    Raises:
        ValueError: If it is neither, or the package of the file's cloud is not installed.
    """

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self.by_file = not cluster.startswith(("http://", "https://"))
        if self.by_file and not Path(cluster).is_file():
            raise ValueError(
                f"--cluster: expected a cluster file or http://HOST:{DASHBOARD_PORT}, got {cluster!r}, which is"
                " neither a file nor an address"
            )
        if self.by_file:
            _require_cloud_package(cluster)
        self._url = cluster
        self._tunnel: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close_tunnel()
        self._said.close()

    def connect(self) -> Jobs:
        """Connect to the job server, through a new tunnel if the last one has ended.

        Raises:
            ConnectionError: If it does not answer in time.
            ValueError: If it rejects the token, or the cluster has no running head.
        """
        if not self.by_file:
            return Jobs(self._url, authentication_token() if os.environ.get("RAY_AUTH_MODE") == "token" else None)
        token = None if os.environ.get("RAY_AUTH_MODE") == "disabled" else authentication_token()
        if self._tunnel and self._tunnel.poll() is None:
            try:
                return Jobs(self._url, token)
            except ConnectionError:
                self._close_tunnel()
        return self._open_tunnel(token)

    def _open_tunnel(self, token: str | None) -> Jobs:
        port = _free_port()
        self._url = f"http://127.0.0.1:{port}"
        launcher = [sys.executable, "-m", "ray.scripts.scripts", "dashboard", self.cluster, "--port", str(port)]
        self._said.seek(0)
        self._said.truncate()
        # Start a separate session, so that Ctrl-C does not end the tunnel.
        self._tunnel = subprocess.Popen(
            launcher, stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said, start_new_session=True
        )
        deadline = time.monotonic() + TUNNEL_TIMEOUT_S
        while self._tunnel.poll() is None and time.monotonic() < deadline:
            try:
                return Jobs(self._url, token)
            except ConnectionError:
                time.sleep(0.5)
        ended = self._tunnel.poll() is not None
        self._close_tunnel()
        raise self._no_tunnel() if ended else ConnectionError(f"no answer of the head within {TUNNEL_TIMEOUT_S:g} s")

    def _no_tunnel(self) -> Exception:
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip()
        if "not found!" in said:
            return ValueError(
                f"expected a running cluster of {self.cluster}, got none; start it with `ray up {self.cluster}`"
            )
        return ConnectionError(f"the launcher could not reach the head of {self.cluster}: {said[-600:]}")

    def _close_tunnel(self) -> None:
        if self._tunnel and self._tunnel.poll() is None:
            os.killpg(self._tunnel.pid, signal.SIGTERM)
            self._tunnel.wait()
        self._tunnel = None


def authentication_token() -> str | None:
    """Find Ray's token as Ray does: in `RAY_AUTH_TOKEN`, `RAY_AUTH_TOKEN_PATH` or `~/.ray/auth_token`."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"]
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return file.read_text().strip() if file.is_file() else None


def _require_cloud_package(file: str) -> None:
    try:
        content = yaml.safe_load(Path(file).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"--cluster: expected the YAML file of `ray up`, got {file}: {error}; correct it") from error
    provider = content.get("provider") if isinstance(content, dict) else None
    cloud = provider.get("type") if isinstance(provider, dict) else None
    if cloud in CLOUD_PACKAGES:
        otherwise = f"give the dashboard's address (http://HOST:{DASHBOARD_PORT}) in place of the file"
        require_package(CLOUD_PACKAGES[cloud], cloud, f"--cluster {file}", otherwise)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

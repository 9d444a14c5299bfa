"""A Ray head of a test's own, with ports, files and a token that no other Ray of this machine shares."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

START_TIMEOUT_S = 120


@dataclass(frozen=True)
class Head:
    """A head that runs."""

    url: str
    """Its dashboard."""
    dashboard_port: int
    gcs: str
    home: Path
    """The home folder of its processes."""
    token: str
    environment: Mapping[str, str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running_head() -> Iterator[Head]:
    """Start a head as a cluster's start commands do, with token authentication; end it and all that it started."""
    # A socket's path has room for about a hundred characters.
    folder = Path(tempfile.mkdtemp(prefix="srpo", dir="/tmp"))
    home, token = folder / "home", "0123456789abcdef" * 4
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(token)
    port, dashboard = free_port(), free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home / ".ray" / "auth_token"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}", "--block"]
    command += [
        f"--dashboard-port={dashboard}",
        f"--temp-dir={folder / 'ray'}",
        "--num-cpus=8",
        "--disable-usage-stats",
    ]
    # Its default is one port for all of a machine, and jobs need it.
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    with (folder / "log").open("w") as log:
        # A session of its own, so that all of its processes can be ended and no other's.
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{dashboard}"
    try:
        _await_answer(url, process, folder / "log")
        yield Head(url, dashboard, f"127.0.0.1:{port}", home, token, environment)
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _await_answer(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/api/version", timeout=5)
        except urllib.error.HTTPError:
            return  # refused without a token, so there is a server
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise RuntimeError(f"the head did not start: {log.read_text()[-2000:]}")

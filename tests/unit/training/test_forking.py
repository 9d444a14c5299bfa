"""Fork server: what its processes inherit and take over, and workers without it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from srpo_ray.config import apply, load_run
from srpo_ray.launch import fork_client, fork_server, forking
from srpo_ray.launch.forking import PACKAGES, can_fork, forked_workers
from tests.conftest import SMALL_WORLD

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks workers")

SCRIPT = """
import json, os, sys
print(json.dumps({
    "pid": os.getpid(), "parent": os.getppid(), "main": __name__, "argv": sys.argv, "path": sys.path[0],
    "folder": os.getcwd(), "known": os.environ.get("KNOWN"), "server's": os.environ.get("OMP_NUM_THREADS"),
    "shared": getattr(sys.modules.get("shared"), "pid", None), "input": sys.stdin.read(),
}))
print("an error", file=sys.stderr)
sys.exit(7)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    (tmp_path / "shared.py").write_text("import os\npid = os.getpid()\n")
    (tmp_path / "worker.py").write_text(SCRIPT)
    return tmp_path / "worker.py"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that end with the test."""
    processes = list[subprocess.Popen[bytes]]()
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def server(socket: Path, *packages: str, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", fork_server.__name__, str(socket), *packages]
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{Path.cwd()}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    wait_until(socket.exists)
    return process


def client(socket: Path, *command: str, seconds: float = 20.0) -> list[str]:
    return [sys.executable, "-I", "-S", fork_client.__file__, str(socket), str(seconds), *command]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {"KNOWN": "of the worker", "PATH": os.environ["PATH"]}
    return subprocess.run(
        command, cwd=folder, env=environment, input="words", capture_output=True, text=True, timeout=60, check=False
    )


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_forked_worker_has_the_imports_of_the_server_and_all_else_of_its_client(
    worker: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    started.append(server(tmp_path / "socket", "shared", folder=tmp_path))
    results = [run(client(tmp_path / "socket", str(worker), "--name", "a b"), place) for _ in range(2)]
    found = [json.loads(result.stdout) for result in results]
    for result, each in zip(results, found, strict=True):
        assert result.returncode == 7
        assert result.stderr == "an error\n"
        assert each["shared"] == started[0].pid == each["parent"]
        assert each["argv"] == [str(worker), "--name", "a b"]
        assert (each["main"], each["path"], each["folder"]) == ("__main__", str(tmp_path), str(place))
        assert (each["known"], each["server's"], each["input"]) == ("of the worker", None, "words")
    assert len({each["pid"] for each in found} | {started[0].pid}) == 3


@pytest.mark.parametrize("packages", [None, ["no_such_package"], ["ray"]])
def test_worker_starts_by_itself_without_a_server_or_if_the_server_cannot_import(
    packages: list[str] | None, worker: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    if packages is not None:
        started.append(server(tmp_path / "socket", *packages, folder=tmp_path))
    result = run(client(tmp_path / "socket", str(worker)), tmp_path)
    found = json.loads(result.stdout)
    assert result.returncode == 7
    assert (found["shared"], found["parent"]) == (None, os.getpid())
    assert (found["argv"], found["known"], found["input"]) == ([str(worker)], "of the worker", "words")


def test_worker_that_has_waited_too_long_starts_by_itself_and_is_not_forked_later(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(3)\n")
    (tmp_path / "worker.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('once\\n')\n")
    started.append(server(tmp_path / "socket", "slow", folder=tmp_path))
    late = run(client(tmp_path / "socket", str(tmp_path / "worker.py"), seconds=0.5), tmp_path)
    assert late.returncode == 0
    # Answered after the late one, as requests are answered in order.
    assert run(client(tmp_path / "socket", str(tmp_path / "worker.py")), tmp_path).returncode == 0
    assert (tmp_path / "ran").read_text() == "once\nonce\n"


def test_end_of_a_client_ends_its_worker_and_that_of_the_driver_the_server_and_its_folder(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    (tmp_path / "worker.py").write_text(
        f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )
    socket = tmp_path / "own" / "socket"
    socket.parent.mkdir()
    started.append(server(socket, "json", folder=tmp_path))
    asking = subprocess.Popen(client(socket, str(tmp_path / "worker.py")))
    started.append(asking)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    forked = psutil.Process(int((tmp_path / "pid").read_text()))
    asking.terminate()
    assert asking.wait(20) == (-signal.SIGTERM) % 256
    assert not forked.is_running()
    pipe = started[0].stdin
    assert pipe
    pipe.close()
    assert started[0].wait(20) == 0
    assert not socket.parent.exists()


def test_packages_of_the_server_import_no_ray_and_start_no_thread() -> None:
    check = (
        "import importlib, sys, threading; [importlib.import_module(name) for name in sys.argv[1:]];"
        "print('ray' in sys.modules, threading.active_count())"
    )
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-c", check, *PACKAGES]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert result.stdout.splitlines()[-1] == "False 1"


def test_server_runs_for_the_block_of_a_local_run_on_the_cpu_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(forking, "PACKAGES", ("json",))
    config = load_run([SMALL_WORLD])
    with forked_workers(config, None) as command:
        assert command
        *_, socket, _ = shlex.split(command)
        (process,) = psutil.Process().children()
        # A process has no command line until it runs its program.
        wait_until(process.cmdline)
        assert process.cmdline()[-2:] == [socket, "json"]
    assert not process.is_running()
    assert not Path(socket).parent.exists()
    with forked_workers(config, "127.0.0.1:6379") as command:
        assert command is None
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with forked_workers(config, None) as command:
        assert command is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, True), ({"training.num_gpus": 1}, False), ({"rewards.pool.num_gpus": 0.5}, False)],
)
def test_processes_that_use_a_gpu_are_not_forked(changes: dict[str, float], expected: bool) -> None:
    assert can_fork(apply(load_run([SMALL_WORLD]), changes)) is expected


def test_no_server_starts_beside_a_ray_that_runs(ray_cluster: None) -> None:
    with forked_workers(load_run([SMALL_WORLD]), None) as command:
        assert command is None

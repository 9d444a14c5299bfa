"""Fork server: what its processes inherit and take over, and workers without it."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from srpo_ray.config import apply, load_run
from srpo_ray.launch import fork_client, fork_server, forking
from srpo_ray.launch.forking import PACKAGES, can_fork, forked_workers, server_environment
from srpo_ray.tracking.client import CLIENT_SETTINGS
from tests.conftest import SMALL_WORLD

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks workers")

REPLACING = ("UV_RUN_RECURSION_DEPTH", "RAY_RUNTIME_ENV_HOOK")
"""Environment variables with which Ray may replace the command of its workers."""

SCRIPT = """
import json, os, resource, sys
print(json.dumps({
    "max_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0], "oom_score": open("/proc/self/oom_score_adj").read(),
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


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has imported no Ray, and whose environment leaves the start of workers to it."""
    for name in ("RAY_ADDRESS", *REPLACING):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)


def server(path: Path, *packages: str, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", fork_server.__name__, str(path), *packages]
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{Path.cwd()}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    wait_until(path.exists)
    return process


def client(path: Path, *command: str, seconds: float = 20.0) -> list[str]:
    return [sys.executable, "-I", "-S", fork_client.__file__, str(path), str(seconds), *command]


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
    path = tmp_path / "own" / "socket"
    path.parent.mkdir()
    started.append(server(path, "json", folder=tmp_path))
    asking = subprocess.Popen(client(path, str(tmp_path / "worker.py")))
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
    assert not path.parent.exists()


def test_worker_has_the_file_limit_and_the_oom_score_of_its_client(
    worker: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    started.append(server(tmp_path / "socket", "json", folder=tmp_path))
    limited = ["sh", "-c", 'ulimit -Sn 345 && echo 567 > /proc/self/oom_score_adj && exec "$@"', "sh"]
    found = json.loads(run([*limited, *client(tmp_path / "socket", str(worker))], tmp_path).stdout)
    assert found["parent"] == started[0].pid
    assert (found["max_files"], int(found["oom_score"])) == (345, 567)


def test_workers_draw_other_random_numbers(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    (tmp_path / "worker.py").write_text("import random, numpy\nprint(numpy.random.rand(), random.random())\n")
    started.append(server(tmp_path / "socket", "numpy.random", folder=tmp_path))
    command = client(tmp_path / "socket", str(tmp_path / "worker.py"))
    first, second = (run(command, tmp_path).stdout.split() for _ in range(2))
    assert len({*first, *second}) == 4


def test_killed_server_ends_no_worker_and_later_ones_start_by_themselves(
    worker: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, sys\nfrom pathlib import Path\nPath('pid').write_text(str(os.getpid()))\n"
        "sys.stdin.read()\nPath('done').touch()\n"
    )
    started.append(server(tmp_path / "socket", "json", folder=tmp_path))
    running = subprocess.Popen(client(tmp_path / "socket", "slow.py"), cwd=tmp_path, stdin=subprocess.PIPE)
    started.append(running)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    started[0].kill()
    assert running.wait(20) == 1
    assert psutil.Process(int((tmp_path / "pid").read_text())).is_running()
    assert running.stdin
    running.stdin.close()
    wait_until((tmp_path / "done").exists)
    found = json.loads(run(client(tmp_path / "socket", str(worker)), tmp_path).stdout)
    assert found["parent"] == os.getpid()


def test_worker_is_not_started_twice_if_the_server_ends_at_its_fork(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        with subprocess.Popen(client(tmp_path / "socket", "worker.py"), cwd=tmp_path) as asking:
            connection, _ = listener.accept()
            connection.recv(1 << 20)
            connection.send(b"?")
            assert connection.recv(1) == b"!"
            connection.close()
            assert asking.wait(20) == 1
    assert not (tmp_path / "ran").exists()


def test_packages_of_the_server_import_no_ray_start_no_thread_and_report_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # MLflow sends nothing from tests either.
    for name in (*CLIENT_SETTINGS, "PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    check = (
        "import importlib, sys, threading; [importlib.import_module(name) for name in sys.argv[1:]];"
        "from pathlib import Path; from mlflow.telemetry.client import get_telemetry_client;"
        "names = {task.read_text().strip() for task in Path('/proc/self/task').glob('*/comm')};"
        "print('ray' in sys.modules, threading.active_count(), get_telemetry_client(), *names)"
    )
    command, home = [sys.executable, "-c", check, *PACKAGES], {"XDG_CONFIG_HOME": str(tmp_path)}
    result = subprocess.run(
        command, env=server_environment() | home, capture_output=True, text=True, timeout=300, check=True
    )
    imported, threads, telemetry, *names = result.stdout.splitlines()[-1].split()
    assert (imported, threads, telemetry) == ("False", "1", "None")
    # jemalloc, which has a thread of its own, starts it again after a fork.
    assert {name for name in names if not name.startswith("python")} <= {"jemalloc_bg_thd"}
    assert not [*tmp_path.rglob("telemetry*")]


@pytest.mark.usefixtures("local")
def test_server_runs_for_the_block_of_a_local_run_on_the_cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "PACKAGES", ("json",))
    config, notes = load_run([SMALL_WORLD]), list[str]()
    with forked_workers(config, None, notes.append) as command:
        assert command
        *_, path, _ = shlex.split(command)
        (process,) = psutil.Process().children()
        # A process has no command line until it runs its program.
        wait_until(process.cmdline)
        assert process.cmdline()[-2:] == [path, "json"]
    assert not process.is_running()
    assert not Path(path).parent.exists()
    with forked_workers(config, "127.0.0.1:6379", notes.append) as command:
        assert command is None
    for name in ("RAY_ADDRESS", *REPLACING):
        with monkeypatch.context() as during:
            during.setenv(name, "1")
            with forked_workers(config, None, notes.append) as command:
                assert command is None
    assert not notes


@pytest.mark.usefixtures("local")
def test_server_that_cannot_start_or_import_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "PACKAGES", ("no_such_package",))
    config, notes = load_run([SMALL_WORLD]), list[str]()
    with forked_workers(config, None, notes.append) as command:
        assert command
        (process,) = psutil.Process().children()
        # Not waited for, which would take the exit code.
        wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE)
    assert "exit code 1: ModuleNotFoundError: No module named 'no_such_package'" in notes[-1]
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with forked_workers(config, None, notes.append) as command:
        assert command is None
    assert "cannot start ([Errno 2] No such file" in notes[-1]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"training.num_gpus": 1}, False),
        ({"training.num_workers": 2}, False),
        ({"training.resources": {"fast": 1}}, False),
        ({"rewards.pool.num_gpus": 0.5}, False),
        ({"rewards.pool.resources": {"GPU": 1}}, False),
    ],
)
def test_processes_that_use_a_gpu_or_several_workers_are_not_forked(changes: dict[str, Any], expected: bool) -> None:
    assert can_fork(apply(load_run([SMALL_WORLD]), changes)) is expected


def test_python_without_process_descriptors_forks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    assert not can_fork(load_run([SMALL_WORLD]))


def test_no_server_starts_beside_a_ray_that_runs(ray_cluster: None) -> None:
    with forked_workers(load_run([SMALL_WORLD]), None, print) as command:
        assert command is None

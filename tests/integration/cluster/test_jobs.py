"""Commands as jobs of a Ray head that runs beside the test, seen as from another machine."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.job_submission import JobStatus

from srpo_ray.cli import main
from srpo_ray.cluster import dashboard, jobs
from srpo_ray.cluster.follow import Output, follow
from srpo_ray.cluster.jobs import COMMAND, FOLDER, Jobs, exit_code
from srpo_ray.cluster.results import bring_back
from tests.conftest import ROOT, SMALL_WORLD
from tests.helpers.cluster.head import Head
from tests.helpers.cluster.proxy import Proxy

pytestmark = pytest.mark.usefixtures("token")


@pytest.fixture
def proxy(head: Head) -> Iterator[Proxy]:
    line = Proxy(head.dashboard_port)
    yield line
    line.close()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one file, in place of the whole tree."""
    (tmp_path / "numbers.sh").write_text("for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 0.5; done; exit 7\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_output_comes_once_and_in_order_over_a_line_that_is_cut(
    head: Head, proxy: Proxy, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Jobs(proxy.url, head.token).start("sh numbers.sh", "numbers", {})
    shown: list[str] = []

    def cut_and_mend() -> None:
        while not any("line 3" in text for text in shown):
            time.sleep(0.1)
        proxy.cut()
        time.sleep(1.2)
        proxy.mend()

    threading.Thread(target=cut_and_mend, daemon=True).start()
    details = follow(lambda: Jobs(proxy.url, head.token), job, Output(shown.append))
    assert re.findall(r"line \d", "".join(shown)) == [f"line {number}" for number in range(1, 9)]
    assert exit_code(details) == 7
    said = capsys.readouterr().err
    assert "connection lost, retry in" in said
    assert "connected again" in said


@pytest.mark.long
def test_job_that_fails_gives_its_exit_code_and_its_words(
    head: Head, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["train", str(SMALL_WORLD), "data.prompts=on_the_head.txt", "--cluster", head.url]) == 2
    printed = capsys.readouterr()
    assert "on_the_head.txt" in printed.out
    assert "ended with exit code 2" in printed.err


def test_results_come_back_without_the_heavy_files(head: Head, tree: Path) -> None:
    there = head.home / "srpo_ray" / "runs" / "one"
    (there / "images").mkdir(parents=True)
    (there / "report.html").write_text("<h1>all is well</h1>")
    (there / "images" / "grid.png").write_bytes(bytes(range(256)) * 4000)
    (there / "weights.safetensors").write_bytes(b"0" * 100)
    (tree / "srpo_ray").symlink_to(ROOT / "srpo_ray")
    here = bring_back(Jobs(head.url, head.token), "runs/one")
    assert here == Path("runs/one")
    assert {path.relative_to(here).as_posix() for path in here.rglob("*.*")} == {"report.html", "images/grid.png"}
    assert (here / "images" / "grid.png").read_bytes() == bytes(range(256)) * 4000


def test_last_job_is_attached_to_and_stopped(head: Head, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client = Jobs(head.url, head.token)
    job = client.start("echo begun; sleep 600", "train", {COMMAND: "srpo-ray train c.yaml", FOLDER: "runs/none"})
    stopping = threading.Timer(3, main, [["sweep", "--cluster", head.url, "--stop", job]])
    stopping.start()
    assert main(["train", str(SMALL_WORLD), "--cluster", head.url, "--attach"]) == 130
    stopping.join()
    assert client.details(job).status == JobStatus.STOPPED
    printed = capsys.readouterr()
    assert "begun" in printed.out
    assert f"job {job} is being stopped" in printed.out


def test_ctrl_c_leaves_the_job_running_and_shows_how_to_attach_again(
    head: Head, tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Jobs(head.url, head.token)
    job = client.start("sleep 600", "train", {COMMAND: "srpo-ray train c.yaml"})

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("srpo_ray.cluster.command.follow", interrupted)
    assert main(["train", str(SMALL_WORLD), "--cluster", head.url, "--attach", job]) == 130
    said = capsys.readouterr().err
    assert f"srpo-ray train {SMALL_WORLD} --cluster {head.url} --attach {job}" in said
    assert f"--stop {job}" in said
    assert not client.details(job).status.is_terminal()
    client.stop_job(job)


def test_job_that_the_cluster_does_not_know_is_refused(head: Head, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(SMALL_WORLD), "--cluster", head.url, "--attach", "srpo-train-1"]) == 2
    assert "expected a job of the cluster, got 'srpo-train-1'" in capsys.readouterr().err


def test_another_token_is_refused(head: Head) -> None:
    with pytest.raises(ValueError, match=r"expected the authentication token of the cluster at .*, got another token"):
        Jobs(head.url, "f" * 64)


def test_address_that_never_answers_is_refused_in_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "REQUEST_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert main(["train", str(SMALL_WORLD), "--cluster", f"http://127.0.0.1:{port}"]) == 2
    assert f"--cluster: expected a running cluster at http://127.0.0.1:{port}, got no answer within 0.5 s" in (
        capsys.readouterr().err
    )


def test_token_is_not_sent_to_an_address_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str | None] = []
    monkeypatch.setattr(dashboard, "Jobs", lambda _, token=None: sent.append(token))
    for mode in ("disabled", "token"):
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        dashboard.Dashboard("http://127.0.0.1:1").connect()
    assert sent[0] is None
    assert sent[1]


def test_job_is_watched_by_the_name_of_its_results_with_a_copy_of_its_live_report(
    head: Head, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = head.home / "srpo_ray" / "runs" / "watched"
    (there / "images").mkdir(parents=True)
    (there / "report.html").write_text('<p data-written="1.0" data-late-s="180">in progress</p>')
    (there / "arms.csv").write_text("a table")
    (tree / "srpo_ray").symlink_to(ROOT / "srpo_ray")
    client = Jobs(head.url, head.token)
    job = client.start("echo begun; sleep 600", "train", {COMMAND: "srpo-ray train c.yaml", FOLDER: "runs/watched"})
    here = Path("runs") / "watched"
    try:
        while "begun" not in client.get_job_logs(job):
            time.sleep(0.2)
        assert main(["watch", "another", "--cluster", head.url]) == 2
        assert "expected a run or a job of the cluster, got 'another'; it has" in capsys.readouterr().err
        assert main(["watch", "watched", "--once", "--cluster", head.url]) == 0
        assert f"{job}: RUNNING" in capsys.readouterr().out
        assert [path.name for path in here.iterdir()] == ["report.html"]
        # The page may be older than the one on the cluster by the time between two copies.
        assert (here / "report.html").read_text() == '<p data-written="1.0" data-late-s="480">in progress</p>'
        (here / "report.html").unlink()
        stopping = threading.Thread(target=_stop_when_copied, args=(here / "report.html", client, job))
        stopping.start()
        assert main(["watch", "watched", "--cluster", head.url]) == 130
        stopping.join()
    finally:
        client.stop_job(job)
    assert "begun" in capsys.readouterr().out


def _stop_when_copied(report: Path, client: Jobs, job: str) -> None:
    while not report.exists():
        time.sleep(0.1)
    client.stop_job(job)

"""`srpo-ray vote` as a process: killed, started again, and ended by Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from srpo_ray.votes.ledger import read_votes
from tests.conftest import ROOT
from tests.helpers.ballots import write_run


@contextmanager
def voting(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and the address that it prints."""
    words = [sys.executable, "-m", "srpo_ray.cli", "vote", str(folder), "--repeats", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, next(line.split()[-1] for line in process.stdout if line.startswith("vote at "))
        finally:
            process.kill()


def ask(url: str, path: str, body: dict[str, str] | None = None) -> dict[str, str]:
    address = urlsplit(url)
    extra = "" if body else "&rater=Ada"
    content = None if body is None else json.dumps(body).encode()
    request = Request(
        f"http://{address.netloc}{path}?{address.query}{extra}", content, {"Content-Type": "application/json"}
    )
    with urlopen(request, timeout=30) as answer:
        return json.load(answer)


def vote(url: str, choice: str) -> None:
    ask(url, "/vote", {"rater": "Ada", "ticket": ask(url, "/next")["ticket"], "choice": choice})


def test_killed_server_loses_no_vote_and_ctrl_c_prints_the_results(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "mine", {"base": 0.1, "tuned": 0.3}, prompts=2)
    with voting(run.path) as (process, url):
        vote(url, "both_bad")
        process.send_signal(signal.SIGKILL)
    assert [each.choice for each in read_votes(run.path)] == ["both_bad"]
    with voting(run.path) as (process, url):
        assert ask(url, "/next")["voted"] == 1
        vote(url, "tie")
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        printed = process.stdout.read()
        assert process.wait(60) == 0
    assert "tuned is not clearly told from base: 50%" in printed
    assert "of 2 votes" in printed
    assert (run.path / "votes.html").exists()

import logging
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest

from srpo_ray.cli import main
from srpo_ray.cluster import spot
from srpo_ray.cluster.metadata import MetadataError, Notice
from srpo_ray.cluster.spot import Node, drain_node, find_node, watch
from tests.helpers.cluster.metadata_server import AwsRules, MetadataServer

NOTICE = Notice("spot terminate", datetime(2027, 3, 4, tzinfo=UTC))


class Answers:
    """A metadata service that gives these answers in turn, an error by raising it."""

    def __init__(self, *answers: Notice | MetadataError | None) -> None:
        self.left = list(answers)

    def check(self) -> None: ...

    def notice(self) -> Notice | None:
        answer = self.left.pop(0)
        if isinstance(answer, MetadataError):
            raise answer
        return answer


def nothing(*arguments: object) -> None: ...


def own_node() -> Node:
    return Node("ab" * 28, "127.0.0.1:1", psutil.Process())


def test_notice_drains_once_and_ends_the_watch() -> None:
    drained: list[Any] = []
    waits: list[float] = []
    node = own_node()
    answers = Answers(None, None, NOTICE, NOTICE)
    assert watch(answers, node, 2.5, drain=lambda *given: drained.append(given), sleep=waits.append) == NOTICE
    assert drained == [(node, NOTICE)]
    assert waits == [2.5, 2.5]


def test_service_that_fails_is_asked_on_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    answers = Answers(MetadataError("no route"), MetadataError("no route"), None, NOTICE)
    watch(answers, own_node(), 1, drain=nothing, sleep=nothing)
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "the metadata service does not answer (no route)",
        "the metadata service answers again",
        "notice: spot terminate at 2027-03-04T00:00:00+00:00",
        f"node {'ab' * 28} is draining",
    ]


def test_watch_ends_with_the_node() -> None:
    process = psutil.Popen([sys.executable, "-c", "input()"], stdin=-1)
    node = Node("cd" * 28, "127.0.0.1:1", psutil.Process(process.pid))

    def end_the_node(seconds: float) -> None:
        process.kill()
        process.wait()

    drained: list[Any] = []
    assert watch(Answers(None), node, 1, drain=lambda *given: drained.append(given), sleep=end_the_node) is None
    assert not drained


class Head:
    """Stands for the process that tells Ray's head; these exit statuses in turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *statuses: int) -> None:
        self.commands: list[list[str]] = []
        statuses_left = list(statuses)

        def run(command: list[str], **options: Any) -> Any:
            self.commands.append(command)
            status = statuses_left.pop(0) if len(statuses_left) > 1 else statuses_left[0]
            return spot.subprocess.CompletedProcess(command, status, "", "Traceback\nRpcError: head is away\n\n")

        monkeypatch.setattr(spot.subprocess, "run", run)
        monkeypatch.setattr(spot, "RETRY_S", 0)


def test_drain_is_retried_while_the_head_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    head = Head(monkeypatch, 1, 1, 0)
    drain_node(own_node(), Notice("preempted", datetime.now(UTC) + timedelta(seconds=90)))
    assert len(head.commands) == 3
    assert [record.message for record in caplog.records] == [
        "the node could not be drained (RpcError: head is away); retrying"
    ]


def test_deadline_reaches_the_head_as_what_is_left_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    head = Head(monkeypatch, 0)
    drain_node(own_node(), Notice("preempted", datetime.now(UTC) + timedelta(seconds=90)))
    drain_node(own_node(), Notice("preempted", datetime.now(UTC) - timedelta(seconds=5)))
    remaining = [int(command[command.index("--deadline-remaining-seconds") + 1]) for command in head.commands]
    assert 60 < remaining[0] <= 90
    assert remaining[1] == 0
    assert "DRAIN_NODE_REASON_PREEMPTION" in head.commands[0]


def test_head_that_stays_away_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Head(monkeypatch, 1)
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1 to drain node abab.*head is away"):
        drain_node(own_node(), Notice("preempted", datetime.now(UTC) - spot.GRACE))


def test_machine_without_the_node_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("expected the Ray node 00 on this machine") + ".*ray start"):
        find_node("00")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--interval", "0"], "--interval: expected seconds above 0, got 0"),
        (["--cloud", "gcp"], "--cloud: expected the metadata service of gcp"),
        (["--cloud", "aws", "--node-id", "00"], "--node-id: expected the Ray node 00 on this machine"),
    ],
)
def test_watcher_that_cannot_watch_ends_with_the_reason(
    words: list[str], message: str, server: MetadataServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = AwsRules()
    assert main(["watch-spot", "--metadata-url", server.url, *words]) == 2
    assert f"srpo-ray: {message}" in capsys.readouterr().err

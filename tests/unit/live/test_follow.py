"""Follower of work in progress, in the process that does the work."""

import logging
import time
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from srpo_ray.errors import CommandInterruptedError
from srpo_ray.live import follow
from srpo_ray.live.follow import Follower
from srpo_ray.live.state import Progress, RunState, add_runs, read_progress


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Progress:
    """Progress of a run; views follow each other without a pause."""
    monkeypatch.setattr("srpo_ray.live.display.LineDisplay.interval", 0.005)
    monkeypatch.setattr(follow, "BEAT_S", 0.0)
    return replace(Progress.start("one", "run", 1, []), runs=[RunState("one", 4, "running")])


def wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("error", "state", "status", "message"),
    [
        (None, "finished", "done", ""),
        (ValueError("postgresql://me:secret@db"), "failed", "failed", "postgresql://me:***@db"),
        (KeyboardInterrupt(), "interrupted", "interrupted", ""),
        (SystemExit(1), "interrupted", "interrupted", "stopped by a signal"),
        (CommandInterruptedError("resume with: x"), "interrupted", "interrupted", "resume with: x"),
    ],
)
def test_end_of_the_work_is_in_the_progress_file_and_on_the_last_page(
    tmp_path: Path, started: Progress, error: BaseException | None, state: str, status: str, message: str
) -> None:
    pages: list[Progress] = []

    def page(progress: Progress) -> Path:
        pages.append(progress)
        return tmp_path / "report.html"

    with pytest.raises(type(error)) if error else nullcontext(), Follower(tmp_path, started, page):
        if error:
            raise error
    ended = read_progress(tmp_path)
    assert ended is not None
    assert (ended.state, ended.message, ended.runs[0].status) == (state, message, status)
    assert pages[0].state == "running"
    assert pages[-1].state == state


def test_page_of_a_finished_experiment_is_left_to_its_final_report(tmp_path: Path, started: Progress) -> None:
    report = tmp_path / "report.html"

    def page(progress: Progress) -> Path:
        report.write_text("live")
        return report

    with Follower(tmp_path, replace(started, kind="experiment"), page) as follower:
        follower.stop()
        report.write_text("final")
    assert report.read_text() == "final"
    ended = read_progress(tmp_path)
    assert ended is not None
    assert ended.state == "finished"


def test_error_of_the_page_does_not_end_the_work_and_is_logged_once(
    tmp_path: Path, started: Progress, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(follow, "PAGE_S", 0.0)
    calls = 0

    def page(_: Progress) -> Path:
        nonlocal calls
        calls += 1
        raise KeyError("evaluator/held_out")

    with caplog.at_level(logging.WARNING), Follower(tmp_path, started, page):
        wait_for(lambda: calls > 3)
    assert [record.getMessage() for record in caplog.records] == [
        f"the progress of {tmp_path} cannot be shown or written now: KeyError: 'evaluator/held_out'"
    ]


def test_page_waits_for_its_interval_except_after_the_end_of_a_run(tmp_path: Path, started: Progress) -> None:
    written: list[int] = []

    def page(progress: Progress) -> Path:
        written.append(progress.num_done)
        return tmp_path / "report.html"

    with Follower(tmp_path, replace(started, kind="experiment", runs=[]), page) as follower:
        time.sleep(0.1)
        assert written == [0]
        add_runs(tmp_path, "search", [RunState("one", 4, "done")])
        wait_for(lambda: len(written) == 2)
        time.sleep(0.05)
        assert written == [0, 1]
        follower.stop()


def test_slow_page_takes_at_most_a_tenth_of_the_time(
    tmp_path: Path, started: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "PAGE_S", 0.0)
    starts: list[float] = []

    def page(_: Progress) -> Path:
        starts.append(time.monotonic())
        time.sleep(0.02)
        return tmp_path / "report.html"

    with Follower(tmp_path, started, page) as follower:
        wait_for(lambda: len(starts) == 3)
        follower.stop()
    assert all(after - before >= 0.2 for before, after in pairwise(starts))


def test_facts_of_the_driver_are_asked_for_at_each_heartbeat(tmp_path: Path, started: Progress) -> None:
    asked = 0

    def facts() -> dict[str, str]:
        nonlocal asked
        asked += 1
        return {"spent": str(asked)}

    with Follower(tmp_path, started) as follower:
        follower.add_facts(facts)
        wait_for(lambda: asked > 1)
        wait_for(lambda: (found := read_progress(tmp_path)) and int(found.facts.get("spent", 0)) > 1)

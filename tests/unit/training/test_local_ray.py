import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from srpo_ray.errors import RunFailedError
from srpo_ray.launch import local_ray, session
from srpo_ray.launch.local_ray import START_ATTEMPTS, shorten_temporary_folder, start_local_ray

SLOW = Exception("The current node timed out during startup. This could happen because the GCS has become overloaded.")


class Start:
    """Stand-in for `ray.init`: each start leaves a process behind, and the first `failures` of them fail."""

    def __init__(self, failures: int, error: BaseException = SLOW) -> None:
        self.failures, self.error = failures, error
        self.left: list[subprocess.Popen[bytes]] = []
        self.environments: list[dict[str, str]] = []

    def __call__(self, *arguments: Any, **options: Any) -> None:
        self.environments.append(dict(os.environ))
        self.left.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        if len(self.left) <= self.failures:
            raise self.error

    @property
    def alive(self) -> list[bool]:
        return [process.poll() is None for process in self.left]


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Start]:
    def use(failures: int, error: BaseException = SLOW) -> Start:
        start = Start(failures, error)
        monkeypatch.setattr(local_ray.ray, "init", start)
        return start

    return use


def test_start_that_is_too_slow_is_retried_without_the_processes_it_left(
    starts: Callable[..., Start], caplog: pytest.LogCaptureFixture
) -> None:
    start = starts(2)
    with caplog.at_level(logging.WARNING):
        start_local_ray({})
    alive = start.alive
    start.left[-1].kill()
    assert alive == [False, False, True]
    assert "attempt 2 of 3" in caplog.text


def test_machine_that_stays_too_slow_is_one_message(starts: Callable[..., Start]) -> None:
    start = starts(START_ATTEMPTS)
    with pytest.raises(RunFailedError, match=r"got none in 3 attempts .*timed out during startup.*ray start --head"):
        start_local_ray({})
    assert start.alive == [False] * START_ATTEMPTS


def test_start_that_fails_for_another_reason_is_not_retried(starts: Callable[..., Start]) -> None:
    start = starts(1, RuntimeError("Ray processes died"))
    with pytest.raises(RuntimeError, match="died"):
        start_local_ray({})
    alive = start.alive
    start.left[0].kill()
    assert alive == [True]


def test_ctrl_c_during_a_start_leaves_no_process(starts: Callable[..., Start]) -> None:
    start = starts(1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        start_local_ray({})
    assert start.alive == [False]


@pytest.mark.parametrize("failures", [0, START_ATTEMPTS])
def test_variables_are_those_of_rays_processes_and_not_of_later_ones(
    failures: int, starts: Callable[..., Start], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRPO_KNOWN", "before")
    monkeypatch.delenv("SRPO_NEW", raising=False)
    start = starts(failures)
    with suppress(RunFailedError):
        start_local_ray({"SRPO_KNOWN": "changed", "SRPO_NEW": "1"})
    for process in start.left:
        process.kill()
    assert [(found["SRPO_KNOWN"], found["SRPO_NEW"]) for found in start.environments] == [("changed", "1")] * max(
        1, failures
    )
    assert (os.environ["SRPO_KNOWN"], os.environ.get("SRPO_NEW")) == ("before", None)


@pytest.mark.parametrize("chosen", [None, "7"])
def test_workers_of_a_local_ray_have_the_priority_of_the_command_or_the_chosen_one(
    chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chosen is None:
        monkeypatch.delenv("RAY_worker_niceness", raising=False)
    else:
        monkeypatch.setenv("RAY_worker_niceness", chosen)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    started = list[Mapping[str, str]]()
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session.ray, "shutdown", lambda: None)
    monkeypatch.setattr(session, "start_local_ray", lambda variables, _: started.append(variables))
    with session.ray_session(None):
        pass
    assert [variables["RAY_worker_niceness"] for variables in started] == [chosen or "0"]


@pytest.mark.parametrize("length", [10, 37, 38, 90])
def test_temporary_folder_is_replaced_if_a_socket_in_it_could_not_be_bound(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = "/" + "a" * (length - 1)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", folder)
    shorten_temporary_folder()
    # Longest name that Ray gives: a process number of 7 digits, the second store of a node.
    socket = f"{folder}/ray/session_2026-11-28_10-20-30_123456_4194304/sockets/plasma_store.1"
    fits = len(socket) <= (103 if sys.platform == "darwin" else 107)
    assert os.environ.get("RAY_TMPDIR") == (None if fits else "/tmp")


def test_folder_that_the_user_chose_for_ray_and_is_too_long_is_refused(
    monkeypatch: pytest.MonkeyPatch, starts: Callable[..., Start]
) -> None:
    start = starts(0)
    monkeypatch.setenv("RAY_TMPDIR", "/" + "a" * 90)
    shorten_temporary_folder()
    with pytest.raises(ValueError, match=r"RAY_TMPDIR: expected a path of at most 37 bytes.*RAY_TMPDIR=/tmp"):
        start_local_ray({})
    assert not start.left


def test_folder_that_cannot_be_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: Callable[..., Start]
) -> None:
    start = starts(0)
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(local_ray, "get_default_ray_temp_dir", lambda: str(file / "ray"))
    monkeypatch.setattr(local_ray, "_is_too_long", lambda _: False)
    with pytest.raises(
        ValueError, match=r"expected a writable folder .* got .*file/ray \(Not a directory\); set RAY_TMPDIR"
    ):
        start_local_ray({})
    assert not start.left

"""The two lanes of `make test`."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests import gate
from tests.conftest import ROOT

Lanes = dict[str, tuple[tuple[str, ...], ...]]


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Lanes:
    """The lanes, to be filled; nothing runs before them."""
    found: Lanes = {}
    monkeypatch.setattr(gate, "LANES", found)
    monkeypatch.setattr(gate, "FIRST", ())
    monkeypatch.setattr(gate, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return found


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


@pytest.mark.parametrize(("status", "decision"), [(0, "passed"), (3, "FAILED")])
def test_lanes_run_beside_each_other_and_are_shown_one_by_one(
    lanes: Lanes,
    status: int,
    decision: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    met = tmp_path / "met"
    # The first lane waits for the second, and goes on after a failure.
    waiting = f"echo one; until [ -e {met} ]; do sleep 0.01; done; echo two; exit {status}"
    lanes |= {
        "slow": (shell(waiting), shell("echo three")),
        "quick": (shell(f"echo ten; touch {met}; sleep 0.1; echo eleven"),),
    }
    assert gate.main() == int(status != 0)
    shown = capfd.readouterr().out
    assert "one\ntwo\nthree\n" + f"---- slow: {decision}" in shown
    assert "ten\neleven\n---- quick: passed" in shown


def test_nothing_starts_after_a_first_check_that_fails(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gate, "FIRST", (shell("exit 1"),))
    lanes["one"] = (shell(f"touch {tmp_path / 'started'}"),)
    assert gate.main() == 1
    assert not (tmp_path / "started").exists()


def test_ctrl_c_ends_both_lanes(lanes: Lanes, tmp_path: Path) -> None:
    pids = [tmp_path / "a", tmp_path / "b"]
    lanes |= {pid.name: (shell(f"echo $$ > {pid}; exec sleep 60"),) for pid in pids}

    def interrupt() -> None:
        while not all(pid.exists() and pid.read_text() for pid in pids):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert gate.main() == 130
    for pid in pids:
        assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_packages_of_the_tests_that_need_them_are_installed_by_make() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert gate.APART
    for folder, tests in gate.APART.items():
        assert f"--target .venv/{folder} " in makefile
        assert [test for test in tests if not (ROOT / test).exists()] == []

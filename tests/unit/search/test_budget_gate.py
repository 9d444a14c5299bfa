"""Requests of trials and the answers of a budget in Ray Tune, and the clock of an experiment."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srpo_ray.config import load_run
from srpo_ray.runs.folder import RunFolder
from srpo_ray.search import budget_gate as gate_module
from srpo_ray.search import budget_requests as requests_module
from srpo_ray.search.budget_clock import begin, clock_file, elapsed_s, phase_hours
from srpo_ray.search.budget_gate import BudgetGate, require_measured_budget
from srpo_ray.search.budget_records import budget_metrics
from srpo_ray.search.budget_requests import is_admitted, read_decisions, wait_for_admission, write_decisions
from srpo_ray.search.budget_terms import BudgetTerms, FinalRun
from srpo_ray.search.spending import Spending
from tests.conftest import SMALL_WORLD

TERMS = BudgetTerms({"hours": 1.0}, None, 0.0, 2, searched=["A"])


class TuneTrial:
    """As much of a trial of Ray Tune as the gate reads."""

    def __init__(self, name: str, status: str = "RUNNING") -> None:
        self.name, self.trial_id, self.status = name, f"id of {name}", status

    def __str__(self) -> str:
        return self.name


def count(folder: Path, hours: float) -> None:
    now = time.time()
    clock_file(folder).parent.mkdir(exist_ok=True)
    clock_file(folder).write_text(json.dumps({"earlier_s": hours * 3600, "began": now, "seen": now}))


def ask(folder: Path, *names: str) -> None:
    for name in names:
        file = folder / "budget" / "requests" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"updates": 10, "gpus": 0.0}))


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A gate that looks at each call."""
    monkeypatch.setattr(gate_module, "POLL_S", 0.0)
    count(tmp_path, 0.5)
    return BudgetGate(tmp_path, TERMS, "search")


@pytest.mark.parametrize(("number", "starts"), [(4, True), (1, False)])
def test_smaller_cluster_leaves_less_time_for_trials_before_the_runs_after_them(
    number: int, starts: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A trial takes 0.1 of the 0.5 hours left. Four seeds take 0.1 hours at the same time, or 0.4 one after the other.
    monkeypatch.setattr(gate_module, "POLL_S", 0.0)
    count(tmp_path, 0.5)
    terms = replace(TERMS, concurrency=4, finals=[FinalRun("A", 10, 0.0)] * 4)
    gate = BudgetGate(tmp_path, terms, "search")
    gate.max_concurrent = number
    ended = RunFolder(tmp_path / "trials" / "A_trial_0")
    ended.make()
    ended.usage.write_text(json.dumps({"starts": [{"seconds": 360.0, "workers": 1, "gpus": 0}]}))
    ended.updates.write_text("".join(json.dumps({"update": update + 1}) + "\n" for update in range(10)))
    ended.finished.write_text("{}")
    write_decisions(tmp_path, {"A_trial_0": True})
    ask(tmp_path, "A_trial_1")
    gate.on_step_end(1, [TuneTrial("A_trial_1")])
    assert read_decisions(tmp_path)["A_trial_1"] is starts


def test_trials_that_ask_are_answered_while_the_budget_lasts(gate: Any, tmp_path: Path) -> None:
    ask(tmp_path, "A_trial_0", "A_trial_1")
    trials = [TuneTrial("A_trial_0"), TuneTrial("A_trial_1", "PENDING"), TuneTrial("A_trial_2")]
    gate.on_step_end(1, trials)
    assert read_decisions(tmp_path) == {"A_trial_0": True}
    assert is_admitted(tmp_path, TERMS, "A_trial_0")
    assert not is_admitted(tmp_path, TERMS, "A_trial_2")
    assert is_admitted(tmp_path, None, "A_trial_2")

    count(tmp_path, 1.1)
    ask(tmp_path, "A_trial_2")
    gate.on_step_end(2, trials)
    assert "A_trial_2" not in read_decisions(tmp_path), "it waits for the end of the first"
    assert not gate.stop_all()
    trials[0].status = "TERMINATED"
    gate.on_step_end(3, trials)
    assert read_decisions(tmp_path) == {"A_trial_0": True, "A_trial_2": False}
    assert gate.stop_all()


def test_start_of_a_phase_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "POLL_S", 0.0)
    count(tmp_path, 0.1)
    for began, now in ((100.0, 1900.0), (2000.0, 2001.0)):
        monkeypatch.setattr(gate_module.time, "monotonic", lambda began=began: began)
        gate: Any = BudgetGate(tmp_path, TERMS, "search")
        monkeypatch.setattr(gate_module.time, "monotonic", lambda now=now: now)
        gate.on_step_end(1, [TuneTrial("A_trial_0", "PENDING")])
        ask(tmp_path, "A_trial_0")
        gate.on_step_end(2, [TuneTrial("A_trial_0")])
        assert phase_hours(tmp_path) == pytest.approx(0.5)


def test_refusal_in_a_phase_of_several_arms_does_not_end_it(gate: Any, tmp_path: Path) -> None:
    count(tmp_path, 1.1)
    ask(tmp_path, "A_trial_0")
    gate.on_step_end(1, [TuneTrial("A_trial_0"), TuneTrial("B_trial_0", "PENDING")])
    assert read_decisions(tmp_path) == {"A_trial_0": False}
    assert not gate.stop_all()


def test_admitted_trial_is_stopped_at_its_report_after_the_budget_is_spent(gate: Any, tmp_path: Path) -> None:
    ask(tmp_path, "A_trial_0")
    gate.on_step_end(1, [TuneTrial("A_trial_0")])
    assert not gate("id of A_trial_0", {})
    count(tmp_path, 1.1)
    assert gate("id of A_trial_0", {})


def test_trial_waits_for_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run([SMALL_WORLD], ["name=A_trial_0"])
    decisions = tmp_path / "budget" / "decisions.json"

    def answer(_: float) -> None:
        assert (tmp_path / "budget" / "requests" / "A_trial_0.json").exists()
        decisions.write_text(json.dumps({"A_trial_0": False}))

    monkeypatch.setattr(requests_module.time, "sleep", answer)
    assert not wait_for_admission(tmp_path, run)


def test_search_without_an_ended_trial_names_what_one_needs(tmp_path: Path) -> None:
    count(tmp_path, 0.2)
    ask(tmp_path, "A_trial_0")
    folder = RunFolder(tmp_path / "trials" / "A_trial_0")
    folder.make()
    folder.usage.write_text(json.dumps({"starts": [{"seconds": 1440, "workers": 1, "gpus": 0}]}))
    folder.updates.write_text('{"update": 1}\n{"update": 2}\n')
    with pytest.raises(ValueError, match=r"budget.hours: expected at least 2 for one trial .*, got 1; raise it"):
        require_measured_budget(tmp_path, TERMS, ["A_trial_0"])


def test_resumed_experiment_counts_from_what_was_spent(tmp_path: Path) -> None:
    clock_file(tmp_path).parent.mkdir()
    # An hour before, and then half an hour until it was killed long ago.
    clock_file(tmp_path).write_text(json.dumps({"earlier_s": 3600, "began": 1000.0, "seen": 2800.0}))
    assert elapsed_s(tmp_path) == 3600 + 1800
    begin(tmp_path)
    assert elapsed_s(tmp_path) == pytest.approx(5400, abs=5)
    metrics = budget_metrics(Spending(tmp_path, BudgetTerms({"hours": 2.0}, None, 0.0, 1)))
    assert metrics == {
        "budget/hours_spent": pytest.approx(1.5, abs=0.01),
        "budget/hours_left": pytest.approx(0.5, abs=0.01),
    }


def test_time_of_a_run_beside_its_training_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "POLL_S", 0.0)
    count(tmp_path, 0.1)
    now = [100.0]
    monkeypatch.setattr(gate_module.time, "monotonic", lambda: now[0])
    gate: Any = BudgetGate(tmp_path, TERMS, "search")
    ask(tmp_path, "A_trial_0")
    trial = TuneTrial("A_trial_0")
    gate.on_step_end(1, [trial])
    spent = Spending(tmp_path, TERMS)
    assert spent.start_hours() == pytest.approx(15 / 3600), "an allowance"
    folder = RunFolder(tmp_path / "trials" / "A_trial_0")
    folder.make()
    folder.usage.write_text(json.dumps({"starts": [{"seconds": 60, "workers": 1, "gpus": 0}]}))
    folder.finished.write_text("{}")
    now[0] = 196.0
    gate.on_trial_complete(2, [trial], trial)
    assert spent.start_hours() == pytest.approx(36 / 3600)

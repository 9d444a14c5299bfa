"""States of Ray Tune's trials in the progress file."""

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from srpo_ray.live.state import Progress, RunState, read_progress, write_progress
from srpo_ray.rewards.pool.opening import Opening
from srpo_ray.search.progress import AwaitRewards, QuietTrials, RunsReporter


@dataclass(eq=False)
class Trial:
    """The part of Ray Tune's trial that is read."""

    name: str
    status: str
    error: str | None = None
    config: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def get_error(self) -> str | None:
        return self.error


class Loading(Opening):
    """A pool that still loads, or that cannot be opened."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(["pool"])
        self.error = error

    def is_complete(self) -> bool:
        if self.error:
            raise self.error
        return False


def test_no_run_begins_before_the_rewards_are_loaded(tmp_path: Path) -> None:
    write_progress(tmp_path, Progress.start("study", "experiment", 2, []))
    reporter = RunsReporter(tmp_path, "search", lambda name, _: RunState(name, 8), Loading())
    reporter.report([Trial("a", "RUNNING"), Trial("b", "ERROR", "a full disk")], False)
    found = read_progress(tmp_path)
    assert found is not None
    assert [(run.name, run.status) for run in found.runs] == [("a", "waiting"), ("b", "failed")]


def test_search_ends_with_the_error_that_kept_a_pool_from_opening() -> None:
    with pytest.raises(ValueError, match="no such folder"):
        AwaitRewards(Loading(ValueError("no such folder"))).on_step_begin(1, [])


def test_statuses_of_trials_are_those_of_their_runs(tmp_path: Path) -> None:
    write_progress(tmp_path, Progress.start("study", "experiment", 5, []))
    (tmp_path / "trials" / "b").mkdir(parents=True)
    (tmp_path / "trials" / "b" / "finished.json").write_text("{}")
    reporter = RunsReporter(tmp_path, "search", lambda name, params: RunState(name, 8, label=str(params["lr"])))
    # Ray Tune pickles the reporter with the phase.
    reporter = pickle.loads(cloudpickle.dumps(reporter))
    reporter.setup()
    trials = [
        Trial("a", "RUNNING", config={"lr": 1}),
        Trial("b", "TERMINATED", config={"lr": 2}),
        Trial("c", "TERMINATED", config={"lr": 3}),
        Trial("d", "ERROR", "Traceback\nValueError: no memory\n\n", {"lr": 4}),
        Trial("e", "PENDING", config={"lr": 5}),
    ]
    assert reporter.should_report(trials)
    reporter.report(trials, False)
    assert not reporter.should_report(trials)
    assert reporter.should_report(trials, done=True)
    found = read_progress(tmp_path)
    assert found is not None
    assert [(run.name, run.status, run.label) for run in found.runs] == [
        ("a", "running", "1"),
        ("b", "done", "2"),
        ("c", "stopped early", "3"),
        ("d", "failed", "4"),
        ("e", "waiting", "5"),
    ]
    assert found.runs[3].error == "ValueError: no memory"
    assert (found.phase, found.num_done) == ("search", 3)


def test_run_that_a_budget_refuses_is_not_started_and_one_without_an_answer_waits(tmp_path: Path) -> None:
    write_progress(tmp_path, Progress.start("study", "experiment", 9, []))
    requests = tmp_path / "budget" / "requests"
    requests.mkdir(parents=True)
    for name in "abcd":
        (requests / f"{name}.json").write_text("{}")
    (tmp_path / "budget" / "decisions.json").write_text('{"a": true, "c": false, "d": false}')
    statuses = ("RUNNING", "RUNNING", "RUNNING", "TERMINATED")
    reporter = RunsReporter(tmp_path, "search", lambda name, _: RunState(name, 8))
    reporter.report([Trial(*each) for each in zip("abcd", statuses, strict=True)], False)
    found = read_progress(tmp_path)
    assert found is not None
    assert [run.status for run in found.runs] == ["running", "waiting", "waiting", "not started"]
    assert found.num_done == 0


def test_trial_without_a_result_ends_without_a_line_of_ray_tune(capsys: pytest.CaptureFixture[str]) -> None:
    trial: Any = Trial("a", "TERMINATED")
    trial.last_result, trial.trial_id = {}, "a"
    QuietTrials().on_trial_complete(1, [], trial)
    assert not capsys.readouterr().out


def test_runs_of_a_later_phase_stand_behind_those_of_an_earlier_one(tmp_path: Path) -> None:
    write_progress(tmp_path, Progress.start("study", "experiment", 2, []))
    for phase, name in (("search", "a"), ("arms", "b"), ("arms", "a")):
        RunsReporter(tmp_path, phase, lambda name, _: RunState(name, 8)).report([Trial(name, "RUNNING")], False)
    found = read_progress(tmp_path)
    assert found is not None
    assert [run.name for run in found.runs] == ["a", "b"]

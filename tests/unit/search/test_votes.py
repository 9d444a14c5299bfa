"""Runs that people choose: waiting for votes, resuming the wait, and the choice by strengths."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from srpo_ray.config import ConfigError, ExperimentConfig, load_experiment, load_run
from srpo_ray.errors import CommandInterruptedError
from srpo_ray.evaluation.results import TrialRow
from srpo_ray.files import write_text
from srpo_ray.search import arm_trials as trials_module
from srpo_ray.search import votes as votes_module
from srpo_ray.search.arms import search_arms, train_arms
from srpo_ray.search.phase import PlannedRun
from srpo_ray.search.publish import publish
from srpo_ray.search.trial import Experiment
from srpo_ray.search.votes import counted_votes, rank_by_votes, wait_for_votes, with_votes
from srpo_ray.votes.ledger import Vote, open_ledger
from srpo_ray.votes.sources import open_ballot
from srpo_ray.votes.strengths import Strength
from srpo_ray.votes.wanted import read_wanted
from tests.conftest import SMALL_WORLD
from tests.helpers.ballots import METRIC, write_run

LR = "training.optimizer.lr"
SHADES = {"SRPO_trial_0": 0.3, "SRPO_trial_1": 0.5, "SRPO_trial_2": 0.7}
LIKED = ("SRPO_trial_1", "SRPO_trial_0", "base", "SRPO_trial_2")
"""What everybody prefers, first the best; the metric would choose the last."""


def config(**changes: Any) -> ExperimentConfig:
    arm = {"name": "SRPO", "grid": {LR: [1e-6, 2e-6, 3e-6]}}
    values = {"base": "base.yaml", "arms": [arm], "seeds": [1, 2], "objective": "votes", "votes_needed": 6}
    return ExperimentConfig.model_validate({**values, **changes})


def row(name: str, score: float, kind: Any = "trial", lr: float = 0.0, status: str = "finished") -> TrialRow:
    history = [{"update": 0, METRIC: 0.1}, {"update": 1, METRIC: score}]
    return TrialRow(name, kind, name, {LR: lr}, history, status, 1.0, 0)


def experiment(folder: Path) -> Experiment:
    return Experiment(load_run([SMALL_WORLD], ["evaluation.test=null"]), str(folder), {}, "", "resume", None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An experiment with three trials."""
    write_text(tmp_path / "experiment.yaml", "")
    for name, shade in SHADES.items():
        write_run(tmp_path / "trials" / name, name, {"base": 0.1, "tuned": shade})
    return tmp_path


def give_votes(folder: Path, names: Sequence[str] = (), order: Sequence[str] = LIKED) -> None:
    """Let a person vote on every pair."""
    ballot = open_ballot(folder, names)
    with open_ledger(folder) as ledger:
        for number, pair in enumerate(ballot.pairs):
            item, best = ballot.items[pair.item], min(pair.systems, key=order.index)
            ledger.append(
                Vote(
                    id=f"{pair}{number}",
                    time="2030-01-01T00:00:00+00:00",
                    rater="Ada",
                    item=item.key,
                    prompt_index=item.prompt_index,
                    prompt=item.prompt,
                    left=pair.first,
                    right=pair.second,
                    left_image=ballot.images[pair.first, item.key].digest,
                    right_image=ballot.images[pair.second, item.key].digest,
                    choice="left" if best == pair.first else "right",
                )
            )


def ranked(names: Sequence[str], folder: Path) -> list[Strength]:
    ballot = open_ballot(folder, names)
    return rank_by_votes(ballot, counted_votes(ballot), names)


def test_runs_are_ranked_by_the_votes_and_not_by_their_scores(folder: Path) -> None:
    assert ranked(list(SHADES), folder) == []
    give_votes(folder)
    assert [each.system for each in ranked(list(SHADES), folder)] == [LIKED[0], LIKED[1], LIKED[3]]
    assert [each.system for each in ranked(list(SHADES)[1:], folder)] == [LIKED[0], LIKED[3]]
    assert ranked(list(SHADES), folder)[0].value > 0 > ranked(list(SHADES), folder)[-1].value


def test_experiment_waits_until_enough_votes_are_given(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(votes_module.wait_for_votes, "__defaults__", (0.01,))
    rows = [*(row(name, shade) for name, shade in SHADES.items()), row("SRPO_trial_9", 0.9, status="failed: x")]
    found: list[TrialRow] = []
    waiting = threading.Thread(target=lambda: found.extend(with_votes(experiment(folder), config(), rows)))
    waiting.start()
    end = time.monotonic() + 30
    while (wanted := read_wanted(folder)) is None and time.monotonic() < end:
        time.sleep(0.01)
    assert wanted is not None
    assert (list(wanted.runs), wanted.needed) == (list(SHADES), 6)
    assert waiting.is_alive()
    give_votes(folder)
    waiting.join(30)
    assert f"vote with: srpo-ray vote {folder}" in capsys.readouterr().out
    assert read_wanted(folder) is None
    strengths = {each.name: each.value("votes") for each in found}
    assert strengths["SRPO_trial_9"] is None
    assert max(SHADES, key=lambda name: strengths[name] or 0.0) == "SRPO_trial_1"
    assert [each.history[0]["votes"] for each in found[:3]] == [0.0, 0.0, 0.0]


def test_interrupted_wait_keeps_the_votes_and_names_the_command_that_resumes_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        give_votes(folder, ["SRPO_trial_0"])
        raise KeyboardInterrupt

    monkeypatch.setattr(votes_module.time, "sleep", interrupt)
    with pytest.raises(CommandInterruptedError, match="0 of 5 votes were given, which are kept; resume with: go on"):
        wait_for_votes(folder, list(SHADES), 5, "go on")
    assert read_wanted(folder) is None
    # Three of the votes are there already, and no more are needed.
    wait_for_votes(folder, list(SHADES), 3, "go on")


def test_search_takes_the_values_that_people_prefer_and_the_report_has_their_votes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(_: Any, phase: str, title: str, runs: Sequence[PlannedRun], *rest: object) -> list[TrialRow]:
        rows = []
        for run in runs:
            shade = SHADES.get(run.name, 0.55 + run.seed / 50)
            if run.kind != "trial":
                write_run(folder / "trials" / run.name, run.name, {"base": 0.2, "tuned": shade}, seed=8)
                give_votes(folder, [run.name], [run.name, "base"])
            rows.append(row(run.name, shade, run.kind, run.changes[LR]))
        return rows

    logged: dict[str, float] = {}
    monkeypatch.setattr(trials_module, "run_planned", train)
    monkeypatch.setattr("srpo_ray.search.publish.log_results", lambda *given: logged.update(given[-1]))
    give_votes(folder)
    mine, this = config(), experiment(folder)
    searches, notes = search_arms(this, mine)
    assert searches[0].chosen == "SRPO_trial_1"
    arms = train_arms(this, mine, searches)
    assert arms[0].changes[LR] == 2e-6
    page = publish(this, mine, searches, arms, notes, "a command").read_text()
    assert "Strengths in the votes" in page
    assert "Which metric agrees with the votes" in page
    assert logged["best/votes"] > 0
    assert logged["votes/count"] > 0
    write_text(folder / "votes.jsonl", "damaged\n")
    assert "The votes cannot be read" in publish(this, mine, searches, arms, notes, "a command").read_text()


def test_votes_after_a_decision_do_not_change_it(folder: Path) -> None:
    rows = [row(name, shade) for name, shade in SHADES.items()]
    give_votes(folder)
    first = with_votes(experiment(folder), config(), rows)
    for _ in range(2):
        give_votes(folder, order=("SRPO_trial_2", "SRPO_trial_0", "base", "SRPO_trial_1"))
    assert ranked(list(SHADES), folder)[0].system == "SRPO_trial_2"
    assert with_votes(experiment(folder), config(), rows) == first
    # Another set of runs is another decision.
    again = with_votes(experiment(folder), config(), rows[1:])
    assert max(again, key=lambda each: each.value("votes") or 0.0).name == "SRPO_trial_2"
    assert with_votes(experiment(folder), config(), rows) == first


def test_damaged_file_of_decisions_is_refused(folder: Path) -> None:
    give_votes(folder)
    write_text(folder / "votes_decided.json", '[{"runs": ["SRPO_trial_0"]}]')
    with pytest.raises(ValueError, match=r"expected a list of decisions .*begin the experiment under another name"):
        with_votes(experiment(folder), config(), [row(name, shade) for name, shade in SHADES.items()])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "expected search.scheduler.type none, promotion or pbt with objective votes, got .asha."),
        ({"search": {"scheduler": {"type": "none"}, "searcher": "optuna"}}, "expected search.searcher random"),
        ({"search": {"scheduler": {"type": "none"}}, "mode": "min"}, "expected mode max with objective votes"),
        ({"search": {"scheduler": {"type": "none"}}, "votes_needed": 0}, "votes_needed"),
        (
            {"search": {"scheduler": {"type": "none"}, "set": {"evaluation.choose": "best"}}},
            "expected evaluation.choose last with objective votes, got best",
        ),
    ],
)
def test_what_people_cannot_decide_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arm = {"name": "SRPO", "space": {LR: {"loguniform": [1e-6, 1e-5]}}}
    values = {"base": str(SMALL_WORLD), "arms": [arm], "objective": "votes", **changes}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=message):
        load_experiment(tmp_path / "experiment.yaml")


def test_tune_is_given_no_metric_that_trials_do_not_report(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def fit(_: Any, phase: str, trainable: Any, tune_config: Any, *rest: Any) -> list[Any]:
        given.append((tune_config.metric, tune_config.mode))
        return []

    monkeypatch.setattr(trials_module, "fit_phase", fit)
    arm = {"name": "SRPO", "space": {LR: {"loguniform": [1e-6, 1e-5]}}}
    with pytest.raises(ValueError, match="expected a finished trial of SRPO with the metric 'votes'"):
        search_arms(experiment(folder), config(arms=[arm], search={"scheduler": {"type": "none"}}))
    assert given == [(None, None)]

"""Searcher of an experiment: what it draws, remembers over a crash, and learns from the trials' folders."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from srpo_ray.config import ExperimentConfig
from srpo_ray.config.search import SearchDimension
from srpo_ray.runs.folder import RunFolder, append_row
from srpo_ray.search.proposals import Observation
from srpo_ray.search.searchers import TpeSearcher, check_searcher
from srpo_ray.search.space import decode

HELD_OUT, CONTENT = "evaluator/held_out", "truth/content_accuracy"
SPACE = {"a": SearchDimension(uniform=(0, 1)), "b": SearchDimension(choice=([1, 2], [3]))}


def experiment(**values: Any) -> ExperimentConfig:
    arms = [{"name": "SRPO", "space": {"a": {"uniform": [0, 1]}}}]
    search = {"searcher": "optuna", "startup_trials": 3, **values.pop("search", {})}
    return ExperimentConfig.model_validate({"base": "x.yaml", "arms": arms, "search": search, **values})


def searcher(folder: Path, **values: Any) -> TpeSearcher:
    return TpeSearcher(experiment(**values), SPACE, folder, "SRPO")


def train(folder: Path, number: int, held_out: float, content: float = 0.9, *, finished: bool = True) -> None:
    """Write the folder of a trial with two evaluations."""
    run = RunFolder(folder / "trials" / f"SRPO_trial_{number}")
    run.make()
    for update, score, accuracy in ((0, 0.5, 0.9), (9, held_out, content)):
        append_row(run.evaluations, {"update": update, HELD_OUT: score, CONTENT: accuracy})
    if finished:
        run.finished.write_text("{}")


def run_trials(search: TpeSearcher, folder: Path, count: int, first: int = 1) -> list[dict[str, Any]]:
    """Draw trials one after the other; the held-out score is highest at a = 0.3."""
    drawn = []
    for number in range(first, first + count):
        drawn.append(decode(search.suggest(f"id{number}")))
        train(folder, number, 1 - abs(drawn[-1]["a"] - 0.3))
        search.on_trial_complete(f"id{number}", {HELD_OUT: 0.0})
    return drawn


def test_draws_depend_on_the_seed_alone(tmp_path: Path) -> None:
    drawn = {
        name: run_trials(searcher(tmp_path / name, search={"seed": seed}), tmp_path / name, 6)
        for name, seed in (("one", 4), ("again", 4), ("other", 5))
    }
    assert drawn["one"] == drawn["again"] != drawn["other"]
    assert all(0 <= values["a"] <= 1 and values["b"] in ([1, 2], [3]) for values in drawn["one"])


def test_search_that_was_killed_repeats_the_draws_that_ray_tune_lost_and_forgets_no_trial(tmp_path: Path) -> None:
    """Ray Tune's state is of the second trial; the driver was killed after the fourth."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = run_trials(searcher(whole), whole, 8)
    search = searcher(killed)
    run_trials(search, killed, 2)
    search.save(str(tmp_path / "state"))
    run_trials(search, killed, 2, first=3)
    resumed = searcher(killed)
    resumed.restore(str(tmp_path / "state"))
    again = run_trials(resumed, killed, 6, first=3)
    assert again == expected[2:]


def test_trials_that_ray_tune_resumes_complete_under_their_old_ids(tmp_path: Path) -> None:
    search = searcher(tmp_path)
    search.suggest("one")
    search.save(str(tmp_path / "state"))
    resumed = searcher(tmp_path)
    resumed.restore(str(tmp_path / "state"))
    train(tmp_path, 1, 0.7)
    resumed.on_trial_complete("one", {})
    (seen,) = observed(resumed)
    assert (seen.state, list(seen.objectives), seen.update) == ("finished", [0.7], 9)


def observed(search: TpeSearcher) -> list[Observation]:
    return search._observations()


def test_searcher_sees_running_stopped_failed_and_finished_trials(tmp_path: Path) -> None:
    search = searcher(tmp_path)
    for number in range(1, 6):
        search.suggest(f"id{number}")
    train(tmp_path, 1, 0.7)
    train(tmp_path, 2, 0.6, finished=False)
    train(tmp_path, 3, 0.5, finished=False)
    train(tmp_path, 4, float("nan"))
    for number, error in ((1, False), (2, False), (4, False), (5, True)):
        search.on_trial_complete(f"id{number}", {}, error)
    assert [each.state for each in observed(search)] == ["finished", "stopped", "running", "failed", "failed"]


def test_folder_of_a_trial_that_ended_is_read_once(tmp_path: Path) -> None:
    search = searcher(tmp_path)
    search.suggest("one")
    train(tmp_path, 1, 0.7)
    assert observed(search)[0].state == "finished"
    search.on_trial_complete("one", {})
    first = observed(search)
    (tmp_path / "trials" / "SRPO_trial_1" / "evaluations.jsonl").unlink()
    assert observed(search) == first


def test_searcher_is_told_by_how_much_a_trial_breaks_a_limit(tmp_path: Path) -> None:
    limited = {"max_fall": {CONTENT: 0.02}}
    search = searcher(tmp_path, **limited)
    for number, content in ((1, 0.89), (2, 0.8)):
        search.suggest(f"id{number}")
        train(tmp_path, number, 0.7, content)
    assert [each.excess[CONTENT] for each in observed(search)] == pytest.approx([-0.01, 0.08])
    assert all(not each.excess for each in observed(searcher(tmp_path, **limited, search={"constrained": False})))


def test_first_values_are_tried_before_any_is_drawn(tmp_path: Path) -> None:
    first = [{"a": 0.25, "b": [3]}, {"a": 0.5, "b": [1, 2]}]
    search = TpeSearcher(experiment(), SPACE, tmp_path, "SRPO", first=first)
    assert run_trials(search, tmp_path, 3)[:2] == first


def test_known_trials_of_an_earlier_experiment_guide_the_first_draw(tmp_path: Path) -> None:
    known = [Observation({"a": a / 20, "b": [3]}, "finished", [-abs(a / 20 - 0.3)]) for a in range(21)]
    search = TpeSearcher(experiment(), SPACE, tmp_path, "SRPO", known)
    (drawn,) = run_trials(search, tmp_path, 1)
    assert abs(drawn["a"] - 0.3) < 0.15


def test_choices_reach_ray_tune_as_texts(tmp_path: Path) -> None:
    values = searcher(tmp_path).suggest("one")
    assert json.loads(values["b"]) in ([1, 2], [3])


@pytest.mark.parametrize(("version", "found"), [(None, "got none"), ("4.5.0", "got optuna 4.5.0")])
def test_missing_or_old_optuna_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, version: str | None, found: str
) -> None:
    def version_of(name: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr("srpo_ray.search.searchers.metadata.version", version_of)
    with pytest.raises(ValueError, match=rf"optuna 5 or later to be installed, {found}; run `pip install"):
        check_searcher(experiment())
    check_searcher(experiment(search={"searcher": "random", "startup_trials": None}))
    check_searcher(experiment(arms=[{"name": "SRPO", "grid": {"a": [1]}}]))

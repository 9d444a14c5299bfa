"""Files and metrics that an experiment ends with."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from srpo_ray.config import ExperimentConfig, load_experiment, load_run, to_yaml
from srpo_ray.evaluation.results import Arm, Search, TrialRow
from srpo_ray.evaluation.search_parts import Member, RoundResult
from srpo_ray.search import publish as publish_module
from srpo_ray.search.publish import publish
from srpo_ray.search.trial import Experiment
from tests.conftest import SMALL_WORLD

LR, HELD_OUT = "training.optimizer.lr", "evaluator/held_out"
CONFIG = ExperimentConfig.model_validate(
    {
        "name": "mine",
        "base": "base.yaml",
        "arms": [{"name": "SRPO", "grid": {LR: [1e-6, 2e-6]}, "set": {"training.batch_size": 2}}],
        "seeds": [1, 2],
        "search": {"set": {"evaluation.seed": 77}},
        "equal_gain": ["truth/detail"],
    }
)


def row(name: str, kind: Any, lr: float, start: float, end: float, status: str = "finished") -> TrialRow:
    changes = {"training.batch_size": 2, LR: lr, **({"evaluation.seed": 77} if kind == "trial" else {})}
    history = [{"update": 0, HELD_OUT: start}, {"update": 4, HELD_OUT: end}]
    return TrialRow(name, kind, name, changes, history, status, 1.0, 0)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, float], list[str]]:
    """A sweep of two trials, of which the second was chosen, and two seeds; MLflow is not reached."""
    logged: dict[str, float] = {}
    names: list[str] = []

    def log(experiment: Experiment, files: Sequence[Path], metrics: Mapping[str, float]) -> None:
        logged.update(metrics)
        names.extend(file.name for file in files)

    monkeypatch.setattr(publish_module, "log_results", log)
    trials = [row("SRPO_trial_0", "trial", 1e-6, 0.4, 0.5), row("SRPO_trial_1", "trial", 2e-6, 0.4, 0.6)]
    seeds = [row("SRPO_seed_1", "repeat", 2e-6, 0.3, 0.5), row("SRPO_seed_2", "repeat", 2e-6, 0.3, 0.7)]
    failed = row("SRPO_seed_3", "repeat", 2e-6, 0.3, 9.0, "failed: out of memory")
    changes = {"training.batch_size": 2, LR: 2e-6}
    experiment = Experiment(load_run([SMALL_WORLD]), str(tmp_path), {}, "", "", None)
    searches = [Search("SRPO", trials, "SRPO_trial_1", drawn=False)]
    page = publish(experiment, CONFIG, searches, [Arm("SRPO", "method", changes, [*seeds, failed])], [], "a command")
    return page, logged, names


def test_best_run_is_the_seed_with_the_best_objective_that_ended(published: Any) -> None:
    best = json.loads(published[0].with_name("best_run.json").read_text())
    assert best == {"run": "SRPO_seed_2", "arm": "SRPO", "objective": HELD_OUT, "value": 0.7}


def test_best_config_has_the_chosen_values_and_not_the_changes_of_trials(published: Any) -> None:
    page = published[0]
    best = load_run([page.with_name("best.yaml")])
    assert (best.name, best.training.optimizer.lr, best.training.batch_size) == ("mine_best", 2e-6, 2)
    assert best.evaluation.seed == load_run([SMALL_WORLD]).evaluation.seed


def test_files_are_written_and_logged_with_the_means_of_the_best_arm(published: Any) -> None:
    page, logged, names = published
    assert names == ["report.html", "best.yaml", "runs.csv", "arms.csv", "results.json"]
    assert all(page.with_name(name).stat().st_size for name in names)
    assert logged[f"best/{HELD_OUT}"] == pytest.approx(0.6)


def test_page_has_the_baseline_of_the_arm_and_a_note_on_the_failed_run(published: Any) -> None:
    text = published[0].read_text()
    assert "SRPO_trial_1 won. With 2 fresh seeds it moves evaluator/held_out by +0.3000 ± " in text
    assert "SRPO_seed_3 is in no mean over seeds: failed: out of memory." in text
    assert "baseline</b>" in text
    assert "truth/detail: no two arms gain enough of it to be compared" in text
    # The trial was evaluated on other noise, so its own start is 0.4; that of the arms is 0.3.
    assert "baseline 0.4000 (+0.2000)" in text
    assert "mean of 2 fresh seeds (+0.3000 ± " in text


def test_schedule_that_was_found_is_an_experiment_that_trains_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_module, "log_results", lambda *_: None)
    base = load_run([SMALL_WORLD])
    (tmp_path / "base.yaml").write_text(to_yaml(base))
    scheduler = {"type": "pbt", "perturb_interval": 20}
    arm = {"name": "SRPO", "space": {LR: {"loguniform": [1e-6, 1e-5]}}, "set": {"training.batch_size": 2}}
    config = ExperimentConfig.model_validate({**CONFIG.model_dump(), "arms": [arm], "search": {"scheduler": scheduler}})
    rounds = [
        RoundResult(20, [Member("a1", {LR: 1e-6}, None, 0.5), Member("b1", {LR: 4e-6}, None, 0.6)]),
        RoundResult(40, [Member("SRPO_trial_0", {LR: 5e-6}, "b1", 0.8, True), Member("b2", {LR: 4e-6}, "b1", 0.7)]),
    ]
    search = Search("SRPO", [row("SRPO_trial_0", "trial", 5e-6, 0.4, 0.8)], "SRPO_trial_0", rounds=rounds)
    experiment = Experiment(base, str(tmp_path), {}, "", "", None)
    arms = [Arm("SRPO", "method", {LR: 5e-6}, [row("SRPO_seed_1", "repeat", 5e-6, 0.3, 0.5)])]
    page = publish(experiment, config, [search], arms, [], "a command")
    assert "best.yaml has the values of its last round" in page.read_text()
    found, _ = load_experiment(tmp_path / "schedule.yaml")
    assert (found.name, found.seeds, found.reference.set) == ("mine_schedule", (1, 2), {"training.batch_size": 2})
    assert [(part.updates, part.set) for part in found.reference.schedule] == [(20, {LR: 4e-6}), (40, {LR: 5e-6})]
    assert load_run([tmp_path / "best.yaml"]).training.optimizer.lr == 5e-6


def test_best_config_is_on_disk_if_the_schedule_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(publish_module, "schedule_experiment", fail)
    experiment = Experiment(load_run([SMALL_WORLD]), str(tmp_path), {}, "", "", None)
    search = Search("SRPO", [row("SRPO_trial_0", "trial", 5e-6, 0.4, 0.8)], "SRPO_trial_0", drawn=False)
    arms = [Arm("SRPO", "method", {LR: 5e-6}, [row("SRPO_seed_1", "repeat", 5e-6, 0.3, 0.5)])]
    with pytest.raises(OSError, match="no space left"):
        publish(experiment, CONFIG, [search], arms, [], "a command")
    assert load_run([tmp_path / "best.yaml"]).training.optimizer.lr == 5e-6

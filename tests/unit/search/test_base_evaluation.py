"""Evaluation of the base model beside the start of trials: the run that stands for all, and the process."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.config.pool_key import pool_key
from srpo_ray.search import base_evaluation
from srpo_ray.search.base_evaluation import evaluating_base, shared_base
from tests.conftest import SMALL_WORLD

WORDS = "algorithm.control_words"
PLAIN = {"algorithm.query": "plain", "algorithm.branches": ["denoise"]}


def config_of(root: Path, *overrides: str) -> RunConfig:
    return load_run([SMALL_WORLD], [f"run_root={root}", *overrides])


def test_run_with_control_words_stands_for_trials_that_differ_in_training_only(tmp_path: Path) -> None:
    base = config_of(tmp_path)
    runs = [apply(base, PLAIN), apply(base, {WORDS: "vivid"}), apply(base, {"training.optimizer.lr": 1e-3, "seed": 5})]
    assert shared_base(runs, tmp_path) == runs[1]
    assert shared_base(runs[:1], tmp_path) == runs[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"model.resolution": 32},
        {"evaluation.seed": 7},
        {"evaluation.num_steps": 5},
        {"rewards.models.0.weight": 2.0},
        {"rollout.shift": 2.0},
    ],
)
def test_trials_with_different_base_evaluations_make_their_own(changes: dict[str, Any], tmp_path: Path) -> None:
    base = config_of(tmp_path)
    assert shared_base([base, apply(base, changes)], tmp_path) is None


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.num_workers=2",),
        ("training.num_gpus=1",),
        ("training.resources={slot: 1}",),
        ("evaluation.cache=false",),
        ("rewards.models.0={name: mean, type: python, target: 'some.module:Mean'}",),
    ],
)
def test_nothing_is_evaluated_ahead_for_trials_of_several_processes_or_without_cache(
    overrides: tuple[str, ...], tmp_path: Path
) -> None:
    assert shared_base([config_of(tmp_path, *overrides)], tmp_path) is None


def test_resumed_experiment_with_an_evaluated_trial_evaluates_nothing_ahead(tmp_path: Path) -> None:
    (tmp_path / "trials" / "a").mkdir(parents=True)
    assert shared_base([config_of(tmp_path)], tmp_path)
    (tmp_path / "trials" / "a" / "evaluations.jsonl").write_text("{}\n")
    assert shared_base([config_of(tmp_path)], tmp_path) is None


class FakeRay:
    """Ray with one actor, which notes what it reserves, its calls and its end."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.pools: list[str | None] = []
        self.killed = False

    def remote(self, **options: Any) -> Any:
        self.options = options
        evaluate = SimpleNamespace(remote=self.pools.append)
        return lambda _actor_class: SimpleNamespace(remote=lambda _run: SimpleNamespace(evaluate=evaluate))

    def kill(self, _actor: object) -> None:
        self.killed = True


def test_evaluation_takes_the_resources_of_one_trial_and_begins_with_the_pools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, run = FakeRay(), config_of(tmp_path, "training.num_cpus=2")
    monkeypatch.setattr(base_evaluation, "ray", fake)
    with evaluating_base(run) as evaluate:
        assert fake.options == {"num_cpus": 2, "resources": {}}
        assert not fake.pools
        evaluate({pool_key(run): "rewards"})
        assert fake.pools == ["rewards"]
        assert not fake.killed
    assert fake.killed


def test_no_process_starts_if_no_run_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay()
    monkeypatch.setattr(base_evaluation, "ray", fake)
    with evaluating_base(None) as evaluate:
        evaluate({})
    assert fake.options == {}
    assert not fake.killed

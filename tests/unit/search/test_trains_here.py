"""Runs that are trained in the process of their trial, and what that process passes on."""

from pathlib import Path
from typing import Any

import pytest

from srpo_ray.config import RunConfig, load_run
from srpo_ray.errors import TrainingError
from srpo_ray.launch import capacity
from srpo_ray.launch.capacity import NodeType, is_one_machine
from srpo_ray.rewards.base import RewardError
from srpo_ray.rewards.pool.opening import Opening
from srpo_ray.search import train_trial as trial_module
from srpo_ray.search.pools import pool_key
from srpo_ray.search.train_trial import TrialHost, wait_for_rewards
from srpo_ray.search.trial import Experiment, trains_here
from srpo_ray.search.trial_function import run_trial
from tests.conftest import SMALL_WORLD
from tests.helpers.training.contrasted_runs import finished_run


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Imports, images of the base model, wait for rewards: True if the folder of the run existed by then."""
    calls: list[bool] = []

    def note(config: RunConfig) -> None:
        calls.append((Path(config.run_root) / "experiment" / "trials" / config.name).exists())

    monkeypatch.setattr(trial_module, "prepare_process", note)
    monkeypatch.setattr(trial_module, "sample_base_ahead", lambda *_: calls.append(False))
    monkeypatch.setattr(trial_module, "wait_for_rewards", lambda _: calls.append(False))
    return calls


def experiment_of(root: Path, *overrides: str, one_machine: bool = True, start: str = "first") -> Experiment:
    base = load_run([SMALL_WORLD], [f"run_root={root}", *overrides])
    return Experiment(
        base, str(root / "experiment"), {pool_key(base): "pool"}, "parent", "", "commit", one_machine, start
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), True),
        (("training.num_threads=2", "rewards.in_process=true", "training.num_cpus=2"), True),
        (("training.num_workers=2",), False),
        (("training.num_workers={min: 1, max: 2}", "training.resources={slot: 1}"), False),
        (("training.num_gpus=1",), False),
        (("training.resources={slot: 1}",), False),
    ],
)
def test_only_a_lone_worker_on_the_cpu_is_trained_in_its_trial(
    overrides: tuple[str, ...], expected: bool, tmp_path: Path
) -> None:
    experiment = experiment_of(tmp_path, *overrides)
    assert trains_here(experiment, experiment.base) is expected
    cluster = experiment_of(tmp_path, *overrides, one_machine=False)
    assert not trains_here(cluster, cluster.base)


@pytest.mark.parametrize(
    ("alive", "kinds", "expected"),
    [
        ([True], [], True),
        ([True, False], [], True),
        ([True, True], [], False),
        ([True], [NodeType("spot", {"CPU": 4}, 2)], False),
    ],
)
def test_a_cluster_of_several_nodes_or_with_an_autoscaler_is_not_one_machine(
    alive: list[bool], kinds: list[NodeType], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity.ray, "nodes", lambda: [{"Alive": node} for node in alive])
    monkeypatch.setattr(capacity, "node_types", lambda: kinds)
    assert is_one_machine() is expected


def test_process_of_a_trial_imports_before_the_run_begins(
    loaded: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    for name in ("fit", "fit_here"):
        monkeypatch.setattr(trial_module, name, lambda config, *_, **__: trained.append(config.name))
    monkeypatch.setattr(trial_module, "TuneReportCallback", lambda: "callback")
    here, worker = (experiment_of(tmp_path, f"name={name}") for name in ("here", "worker"))
    run_trial(here, here.base, here=True)
    assert loaded == [False, False, False]
    run_trial(worker, worker.base, here=False)
    assert len(loaded) == 3, "Ray Train's workers import, not the process of the trial"
    assert trained == ["here", "worker"]


def test_trial_raises_why_its_rewards_cannot_be_loaded_after_the_search_had_time_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[object] = []

    class Failing(Opening):
        def wait(self) -> None:
            steps.append("asked")
            raise ValueError("no such folder")

    monkeypatch.setattr(trial_module, "Opening", Failing)
    monkeypatch.setattr(trial_module.time, "sleep", steps.append)
    with pytest.raises(ValueError, match="no such folder"):
        wait_for_rewards("pool")
    assert steps == ["asked", trial_module.GRACE]


@pytest.mark.parametrize("here", [True, False])
def test_run_of_a_trial_is_trained_where_the_phase_says(
    here: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, RunConfig, Any]] = []
    monkeypatch.delenv("TUNE_FUNCTION_THREAD_TIMEOUT_S", raising=False)
    # The real one needs a session of Ray Tune.
    monkeypatch.setattr(trial_module, "TuneReportCallback", lambda: "callback")
    for name in ("fit", "fit_here"):

        def note(config: RunConfig, *_: object, name: str, commit: str, parent_run: str, fit: str = name, **__: object):
            calls.append((fit, config, (name, commit, parent_run)))

        monkeypatch.setattr(trial_module, name, note)
    experiment = experiment_of(tmp_path, "name=a")
    run_trial(experiment, experiment.base, here)
    assert calls == [("fit_here" if here else "fit", experiment.base, ("a", "commit", "parent"))]


def test_trial_checks_the_other_model_of_its_contrast_before_its_run_begins(
    loaded: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A range of `model.lora.rank` may suggest a value that no check before the experiment has seen."""
    for name in ("fit", "fit_here"):
        monkeypatch.setattr(trial_module, name, lambda *_, **__: pytest.fail("the run was started"))
    other = finished_run(tmp_path / "other", "model.lora={rank: 5}")
    contrast = [f"evaluation.contrast_with={other}", "evaluation.rl_guidance=2"]
    experiment = experiment_of(tmp_path, "model.lora={rank: 4}", "name=a", *contrast)
    for here in (True, False):
        with pytest.raises(ValueError, match=r"^evaluation\.contrast_with: .*at most model\.lora\.rank=4, got rank 5"):
            run_trial(experiment, experiment.base, here)
    assert not loaded
    assert not (tmp_path / "experiment" / "trials").exists()


def reward_error() -> TrainingError:
    error = TrainingError("the score of sample 0 is NaN")
    error.__cause__ = RewardError("preference", ["a"], "replica", "the score of sample 0 is NaN")
    return error


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (reward_error(), 1),
        (ValueError("model.path: expected a model"), 1),
        (TrainingError("the pool is gone"), 3),
        (OSError("a full disk"), 3),
    ],
)
def test_error_that_a_restart_cannot_fix_ends_all_restarts_of_one_start(
    error: Exception, attempts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def fail(config: RunConfig, *_: object, **__: object) -> None:
        calls.append(config.name)
        raise error

    monkeypatch.setattr(trial_module, "fit_here", fail)
    experiment = experiment_of(tmp_path, "name=a")
    for _ in range(3):
        with pytest.raises(type(error), match=str(error)):
            run_trial(experiment, experiment.base, here=True)
    assert len(calls) == attempts
    with pytest.raises(type(error)):
        run_trial(experiment_of(tmp_path, "name=a", start="resumed"), experiment.base, here=True)
    assert len(calls) == attempts + 1


def test_rows_of_a_trial_go_to_ray_tune(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr(trial_module.tune, "report", rows.append)
    host = TrialHost()
    host.report({"update": 3, "evaluator/held_out": 0.5})
    assert rows == [{"update": 3, "evaluator/held_out": 0.5}]
    assert host.leaving_nodes() == frozenset()

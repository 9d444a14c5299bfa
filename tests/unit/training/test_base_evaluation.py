"""Runs whose base model's images are sampled while their reward pool loads."""

from collections.abc import Callable
from pathlib import Path

import pytest

from srpo_ray.config import load_run
from srpo_ray.errors import RunFailedError
from srpo_ray.launch import base_evaluation
from srpo_ray.launch.base_evaluation import is_sampled_ahead, sample_base_ahead
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training import evaluation
from tests.conftest import SMALL_WORLD


class NotedOpening:
    """Pool that is open, whose answer comes after the first question, as that of an actor does."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.questions = names, 0

    def is_complete(self) -> bool:
        self.questions += 1
        return self.questions > 1


@pytest.fixture(autouse=True)
def _no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_evaluation, "Opening", NotedOpening)
    monkeypatch.setattr(evaluation, "encode_evaluated", lambda _config: None)


def test_new_run_is_sampled_ahead_and_a_begun_one_is_not(tmp_path: Path) -> None:
    config, folder = load_run([SMALL_WORLD]), RunFolder(tmp_path)
    assert is_sampled_ahead(config, folder)
    folder.evaluations.write_text("{}\n")
    assert not is_sampled_ahead(config, folder)


@pytest.mark.parametrize(
    "override",
    [
        "evaluation.cache=false",
        "rewards.models.0={name: mean, type: python, target: 'some.module:Mean'}",
        "model.compile=true",
        "start_from=runs/other",
    ],
)
def test_run_whose_evaluation_is_not_kept_or_is_made_otherwise_is_not_sampled_ahead(
    override: str, tmp_path: Path
) -> None:
    assert not is_sampled_ahead(load_run([SMALL_WORLD], [override]), RunFolder(tmp_path))


@pytest.mark.parametrize("pool", ["pool", None])
def test_only_a_run_with_a_pool_samples_and_stops_before_a_batch_if_the_pool_is_open(
    pool: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[bool, bool]] = []

    def note(_config: object, ready: Callable[[], bool], *, alone: bool) -> None:
        calls.append((ready(), alone))

    monkeypatch.setattr(evaluation, "sample_base_model", note)
    sample_base_ahead(load_run([SMALL_WORLD]), RunFolder(tmp_path), pool, alone=True)
    assert calls == ([(True, True)] if pool else [])


@pytest.mark.parametrize("error", [ValueError("a damaged file"), RunFailedError("a reward failed")])
def test_run_itself_raises_what_kept_the_base_model_from_being_sampled(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []

    def fail(_config: object, _ready: object, *, alone: bool) -> None:
        calls.append(alone)
        raise error

    monkeypatch.setattr(evaluation, "sample_base_model", fail)
    sample_base_ahead(load_run([SMALL_WORLD]), RunFolder(tmp_path), "pool")
    assert calls == [False]

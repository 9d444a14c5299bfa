"""Runs whose base model is evaluated while their reward pool loads."""

from pathlib import Path

import pytest

from srpo_ray.config import load_run
from srpo_ray.errors import RunFailedError
from srpo_ray.launch.base_evaluation import evaluate_base_ahead, is_evaluated_ahead
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training import evaluation
from tests.conftest import SMALL_WORLD


def test_new_run_with_a_pool_is_evaluated_ahead_and_a_begun_one_is_not(tmp_path: Path) -> None:
    config, folder = load_run([SMALL_WORLD]), RunFolder(tmp_path)
    assert is_evaluated_ahead(config, folder, "pool")
    assert not is_evaluated_ahead(config, folder, None)
    folder.evaluations.write_text("{}\n")
    assert not is_evaluated_ahead(config, folder, "pool")


@pytest.mark.parametrize(
    "override",
    [
        "evaluation.cache=false",
        "rewards.models.0={name: mean, type: python, target: 'some.module:Mean'}",
        "model.compile=true",
        "start_from=runs/other",
    ],
)
def test_run_whose_evaluation_is_not_kept_or_is_made_otherwise_is_not_evaluated_ahead(
    override: str, tmp_path: Path
) -> None:
    assert not is_evaluated_ahead(load_run([SMALL_WORLD], [override]), RunFolder(tmp_path), "pool")


@pytest.mark.parametrize("error", [ValueError("a damaged file"), RunFailedError("a reward failed")])
def test_run_itself_raises_what_kept_the_base_model_from_being_evaluated(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, bool]] = []

    def fail(_config: object, pool: str, *, alone: bool) -> None:
        calls.append((pool, alone))
        raise error

    monkeypatch.setattr(evaluation, "encode_evaluated", lambda _config: None)
    monkeypatch.setattr(evaluation, "evaluate_base_model", fail)
    evaluate_base_ahead(load_run([SMALL_WORLD]), RunFolder(tmp_path), "pool", alone=True)
    assert calls == [("pool", True)]

"""Budgets, prices and concurrency of experiment files: what is refused, and what the rest means."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from srpo_ray.config import ConfigError, ExperimentConfig, load_experiment
from srpo_ray.config.budget import GPU_NAMES, gpu_models
from srpo_ray.planning.hardware import GPUS
from tests.conftest import SMALL_WORLD

LR = "training.optimizer.lr"
GPU_RUN = {"training.num_gpus": 1}


def load(folder: Path, **values: Any) -> ExperimentConfig:
    """An experiment with one searched arm, changed by values of its file."""
    arm = {"name": "SRPO", "space": {LR: {"loguniform": [1e-6, 1e-5]}}}
    (folder / "experiment.yaml").write_text(yaml.safe_dump({"base": str(SMALL_WORLD), "arms": [arm], **values}))
    return load_experiment(folder / "experiment.yaml")[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budget": {}}, "budget: expected at least one of gpu_hours, hours, money, got none"),
        ({"budget": {"hours": 0}}, "budget.hours: expected to be greater than 0"),
        ({"budget": {"money": 5}}, "expected `price` with budget.money=5, got none"),
        ({"budget": {"gpu_hours": 5}}, r"expected runs that reserve GPUs with budget.gpu_hours, got CPU runs"),
        ({"price": {"H1000": 2}}, "price: expected a price for one of A100-40GB, .*, got one for 'H1000'"),
        ({"price": {}}, "price: expected a price for a GPU model, got none"),
        ({"price": -1}, "price: expected to be greater than 0; got -1"),
        ({"price": {"H100": -1}}, "price.H100: expected to be greater than 0; got -1"),
        ({"price": {"H100": 2, "L40S": 1}}, "expected `gpus` with several prices"),
        ({"price": {"H100": 2}, "gpus": {"trainers": "H100", "rewards": "L40S"}}, "expected a price for L40S"),
        ({"gpus": {"trainers": "H1000"}}, "gpus.trainers: expected to be 'A100-40GB'"),
        ({"max_concurrent_trials": 0}, "max_concurrent_trials: expected to be greater than or equal to 1; got 0"),
        ({"max_concurrent_trials": "all"}, "max_concurrent_trials: expected to be 'auto'; got 'all'"),
    ],
)
def test_unusable_budget_price_or_concurrency_is_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, **values)


def test_budget_of_gpu_hours_and_money_is_accepted_where_a_run_reserves_a_gpu(tmp_path: Path) -> None:
    arm = {"name": "SRPO", "set": GPU_RUN}
    config = load(tmp_path, arms=[arm], budget={"gpu_hours": 3, "money": 9}, price={"H100": 2.5})
    assert config.budget is not None
    assert config.budget.limits == {"gpu_hours": 3.0, "money": 9.0}


def test_only_gpu_model_with_a_price_is_that_of_trainers_and_rewards(tmp_path: Path) -> None:
    models = gpu_models(None, {"H100": 2.5})
    assert models is not None
    assert (models.trainers, models.of_rewards) == ("H100", "H100")
    assert gpu_models(None, 2.5) is None


def test_every_gpu_model_that_can_have_a_price_can_be_planned() -> None:
    assert set(GPU_NAMES) == set(GPUS)

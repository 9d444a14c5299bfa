"""Numbers that no run can use are refused, with the key named."""

import json
import math
from typing import Any, get_args

import pytest
import yaml

from srpo_ray.config import ConfigError, ExperimentConfig, RunConfig, load_experiment, load_run
from srpo_ray.config.base import Section
from srpo_ray.config.load import validate
from tests.conftest import SMALL_WORLD
from tests.unit.config.test_config import sections


def places(annotation: Any) -> list[Any]:
    """Values with one number, written as `x`, that a field of a type can have."""
    arguments = get_args(annotation)
    if annotation in (int, float, Any):
        return ["x"]
    if getattr(annotation, "__origin__", None) is tuple:
        kinds = arguments[:1] if arguments[-1] is ... else arguments
        return [[place, place] for kind in kinds for place in places(kind)]
    if getattr(annotation, "__origin__", None) is dict:
        return [{"key": place} for place in places(arguments[1])]
    return [place for inner in arguments for place in places(inner)]


def filled(place: Any, number: float) -> Any:
    if isinstance(place, dict):
        return {key: filled(inner, number) for key, inner in place.items()}
    return [filled(inner, number) for inner in place] if isinstance(place, list) else number


KINDS = {kind for top in (RunConfig, ExperimentConfig) for kind in sections(top)}
NUMBERS = sorted(
    {
        (kind.__name__, name, str(place)): (kind, name, place)
        for kind in KINDS
        for name, field in kind.model_fields.items()
        for place in places(field.annotation)
    }.items()
)


@pytest.mark.parametrize(
    ("kind", "name", "place"), [found for _, found in NUMBERS], ids=[".".join(key[:2]) for key, _ in NUMBERS]
)
def test_number_that_is_not_finite_is_refused_in_every_field(kind: type[Section], name: str, place: Any) -> None:
    for number in (math.nan, math.inf, -math.inf):
        with pytest.raises(ConfigError) as caught:
            validate(kind, {name: filled(place, number)}, "test")
        lines = [line for line in str(caught.value).splitlines() if line.startswith(f"  {name}")]
        assert lines
        assert "unknown key" not in str(caught.value)
        assert any(str(number) in line for line in lines), lines


def test_all_numbers_of_all_sections_are_found() -> None:
    found = {(kind.__name__, name) for _, (kind, name, _) in NUMBERS}
    assert len(found) > 90
    assert found >= {
        ("OptimizerConfig", "betas"),
        ("SRPOConfig", "sigma_window"),
        ("SRPOConfig", "window_shift"),
        ("TrainingConfig", "resources"),
        ("PythonRewardConfig", "arguments"),
        ("SearchDimension", "choice"),
        ("SearchConfig", "set"),
        ("ExperimentConfig", "max_fall"),
        ("Arm", "grid"),
    }


@pytest.mark.parametrize(
    "override",
    [
        *(
            "training.optimizer.betas=[1.0, 0.9]",
            "training.optimizer.betas=[0.9, 1.5]",
            "training.optimizer.betas=[-0.1, 0.9]",
        ),
        *("training.optimizer.lr=0", "training.optimizer.eps=0", "training.optimizer.weight_decay=-1e-4"),
        *("training.optimizer.max_grad_norm=0", "training.ema.decay=1", "training.resources={slot: -1}"),
        *("training.num_gpus=1.5", "rewards.pool.num_gpus=2.25", "rewards.pool.resources={slot: -0.5}"),
        *("algorithm.denoise_discount=[-0.1, 0.2]", "algorithm.inversion_discount=[0.3, -1]"),
        *("tracking.flush_interval_s=1e300", "rewards.pool.timeout_s=1e300", "data.image_ratio=0"),
    ],
)
def test_number_out_of_its_range_is_refused(override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"  {key}.*: expected"):
        load_run([SMALL_WORLD], [override])


@pytest.mark.parametrize(
    "override", ["training.num_gpus=0.45", "training.num_gpus=2", "training.optimizer.betas=[0, 0.999]"]
)
def test_number_at_the_edge_of_its_range_is_taken(override: str) -> None:
    key, _, value = override.partition("=")
    found: Any = load_run([SMALL_WORLD], [override])
    for name in key.split("."):
        found = getattr(found, name)
    assert found == (tuple(json.loads(value)) if value.startswith("[") else float(value))


@pytest.mark.parametrize(
    ("dimension", "message"),
    [
        ({"uniform": [0.1, math.inf]}, r"uniform: expected a finite number, got inf"),
        ({"uniform": [math.nan, 1.0]}, r"uniform: expected a finite number, got nan"),
        ({"loguniform": [0.0, 1.0]}, "bounds above 0"),
        ({"uniform": [1.0, 0.1]}, "low < high"),
        ({"choice": [1e-6, math.nan]}, r"choice: expected a finite number, got nan"),
        ({"uniform": [-1.0, 1.0]}, r"training.optimizer.lr: expected to be greater than 0"),
    ],
)
def test_search_over_numbers_that_no_run_takes_is_refused(
    dimension: dict[str, Any], message: str, tmp_path: Any
) -> None:
    arm = {"name": "SRPO", "space": {"training.optimizer.lr": dimension}}
    values = {"base": str(SMALL_WORLD), "arms": [arm]}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=message):
        load_experiment(tmp_path / "experiment.yaml")


def test_search_that_draws_fractions_of_a_whole_number_is_refused(tmp_path: Any) -> None:
    arm = {"name": "SRPO", "space": {"training.num_updates": {"uniform": [10, 40]}}}
    values = {"base": str(SMALL_WORLD), "arms": [arm]}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"space.training.num_updates: .*\n.*valid integer"):
        load_experiment(tmp_path / "experiment.yaml")

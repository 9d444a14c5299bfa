"""Sizes of images: values of a config, the size of evaluations, and identities that older versions wrote."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from srpo_ray.config import RunConfig, apply, continuation, load_run, to_yaml
from srpo_ray.config.baseline_settings import baseline_settings
from srpo_ray.config.model import ModelConfig
from srpo_ray.config.size import ImageSize, nearest_sizes, parse_size
from tests.conftest import SMALL_WORLD

BASE = load_run([SMALL_WORLD])
TEST = {"prompts": "small_world:test", "samples_per_prompt": 1}


def changed(**sizes: Any) -> RunConfig:
    return apply(BASE, {key.replace("__", "."): value for key, value in sizes.items()})


@pytest.mark.parametrize(("given", "size"), [(64, (64, 64)), ([64, 64], (64, 64)), ([48, 80], (48, 80))])
def test_number_is_a_square_and_a_pair_is_height_and_width(given: Any, size: tuple[int, int]) -> None:
    config = changed(model__resolution=given)
    assert config.model.size == size
    assert config.model.size.num_tokens == size[0] * size[1] // 256
    assert changed(model__resolution=size) == config


def test_pair_of_equal_sides_is_the_config_of_the_square() -> None:
    assert changed(model__resolution=[64, 64]) == BASE
    assert yaml.safe_load(to_yaml(changed(model__resolution=[64, 64])))["model"]["resolution"] == 64
    assert yaml.safe_load(to_yaml(changed(model__resolution=[48, 80])))["model"]["resolution"] == [48, 80]


def test_written_config_is_read_as_the_same_run(tmp_path: Path) -> None:
    config = changed(model__resolution=[48, 80], evaluation__resolution=[96, 64], evaluation__test__resolution=128)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_run([tmp_path / "config.yaml"]) == config


def test_config_of_a_run_from_before_the_keys_is_the_same_run(tmp_path: Path) -> None:
    values = yaml.safe_load(to_yaml(BASE))
    del values["evaluation"]["resolution"], values["evaluation"]["test"]["resolution"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert load_run([tmp_path / "config.yaml"]) == BASE


def test_settings_of_a_base_evaluation_are_those_of_runs_from_before_the_keys() -> None:
    settings = baseline_settings(BASE, BASE.evaluation)
    assert settings["model settings"]["resolution"] == 64
    assert "resolution" not in settings["evaluation"]


def test_evaluation_takes_its_own_size_then_that_of_the_model() -> None:
    sizes = changed(model__resolution=32, evaluation__test=TEST)
    tested = sizes.evaluation.tested
    assert tested
    assert sizes.model_at(sizes.evaluation).size == sizes.model_at(tested).size == (32, 32)

    sizes = changed(model__resolution=32, evaluation__resolution=[96, 64], evaluation__test=TEST)
    tested = sizes.evaluation.tested
    assert tested
    assert sizes.model_at(sizes.evaluation).size == sizes.model_at(tested).size == (96, 64)

    sizes = changed(evaluation__resolution=96, evaluation__test={**TEST, "resolution": 128})
    tested = sizes.evaluation.tested
    assert tested
    assert sizes.model_at(tested).size == (128, 128)
    assert list(sizes.image_sizes) == ["model.resolution", "evaluation.resolution", "evaluation.test.resolution"]


def test_evaluations_of_one_size_compare_whatever_the_size_of_the_training() -> None:
    small, large = changed(model__resolution=32, evaluation__resolution=64), BASE
    assert continuation.evaluated_alike(small, large)
    assert continuation.tested_alike(small, large)
    assert baseline_settings(small, small.evaluation) == baseline_settings(large, large.evaluation)
    assert not continuation.evaluated_alike(changed(model__resolution=32), large)
    assert not continuation.evaluated_alike(changed(evaluation__resolution=[64, 48]), large)
    other = changed(evaluation__resolution=[64, 48])
    assert baseline_settings(other, other.evaluation) != baseline_settings(large, large.evaluation)


def test_tests_of_another_size_do_not_compare_but_the_evaluations_do() -> None:
    other = changed(evaluation__test__resolution=96)
    assert continuation.evaluated_alike(other, BASE)
    assert not continuation.tested_alike(other, BASE)
    assert continuation.tested_alike(changed(evaluation__test__resolution=64), BASE)
    without = changed(evaluation__test=None)
    assert continuation.tested_alike(without, apply(without, {"evaluation.interval": 3}))
    assert not continuation.tested_alike(without, BASE)


PAIRS = {"algorithm": {"type": "preference"}, "data.pairs": "pairs.jsonl"}
SIZES = {"model.resolution": None, "model.sizes": [32, [32, 64]], "training.micro_batch_size": 1}


def test_run_of_several_sizes_is_written_and_read_and_evaluated_at_one(tmp_path: Path) -> None:
    config = apply(BASE, {**SIZES, "evaluation.resolution": 64})
    assert config.model.all_sizes == ((32, 32), (32, 64))
    assert config.model.size == config.at_largest_size.model.size == (32, 64)
    assert [run.model.all_sizes for run in config.at_sizes] == [((32, 32),), ((32, 64),)]
    assert config.model_at(config.evaluation).all_sizes == ((64, 64),)
    assert list(config.image_sizes)[:2] == ["model.sizes.0", "model.sizes.1"]
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_run([tmp_path / "config.yaml"]) == config
    assert baseline_settings(config, config.evaluation) == baseline_settings(BASE, BASE.evaluation)
    # A config file may give the sizes alone.
    assert ModelConfig.model_validate({"sizes": [32, [32, 64]]}) == config.model.model_copy(
        update={"resolution": None, "max_sequence_length": 16}
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.resolution": 64}, r"either resolution, .* got resolution=64 and sizes=\[32, \(32, 64\)\]; set res"),
        ({"model.sizes": None}, "either resolution, for one size of images, or sizes, for several, got neither"),
        ({"model.sizes": [32]}, "model.sizes: .*at least 2 items"),
        ({"model.sizes": [32, [32, 32]]}, r"expected sizes that differ, got \[32, 32\]"),
        ({"model.sizes": [32, [32, 40]]}, r"model.sizes.1: .* multiple of 16, got \[32, 40\]"),
        ({"training.micro_batch_size": 2}, "training.micro_batch_size=1 with model.sizes, got forward passes of 2"),
        ({"training.micro_batch_size": None}, "micro_batch_size=1 with model.sizes, got forward passes of 8 prompts"),
        ({"rollout.batch_size": 4}, "expected no rollout.batch_size with model.sizes, got 4"),
        ({"rollout.source": "base_model"}, "expected rollout.source=policy with model.sizes, got base_model"),
        ({"evaluation.resolution": None}, "expected evaluation.resolution with model.sizes, got none"),
        ({**PAIRS, "algorithm.loss": "kto"}, "expected one size of images with algorithm.loss=kto, got model.sizes"),
        (
            {**PAIRS, "algorithm.loss": "contrastive", "training.micro_batch_size": 4},
            "expected one size of images with algorithm.loss=contrastive, got model.sizes",
        ),
    ],
)
def test_run_that_cannot_have_several_sizes_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply(BASE, {**SIZES, "evaluation.resolution": 64, **changes})


@pytest.mark.parametrize(
    ("size", "step", "nearest"),
    [
        ((1000, 1000), 16, "992 and 1008"),
        ((1000, 1344), 16, "[992, 1344] and [1008, 1344]"),
        ((720, 700), 32, "[704, 672] and [736, 704]"),
        ((5, 5), 16, "16"),
    ],
)
def test_nearest_sizes_are_multiples_of_the_step(size: tuple[int, int], step: int, nearest: str) -> None:
    assert nearest_sizes(ImageSize(*size), step) == nearest


@pytest.mark.parametrize(("text", "size"), [("1024", 1024), ("768x1344", (768, 1344)), ("512X512", 512)])
def test_size_is_read_from_a_command_line(text: str, size: Any) -> None:
    assert parse_size("--resolution", text) == size


@pytest.mark.parametrize("text", ["", "x", "64x", "64x64x64", "-64", "64,64", "60", "64x60", "1e3"])
def test_other_text_on_a_command_line_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--resolution: expected"):
        parse_size("--resolution", text)

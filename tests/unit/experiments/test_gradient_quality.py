"""The study of gradient quality: its methods, and the cells of its table."""

from pathlib import Path

import pytest

from srpo_ray.config import load_run
from srpo_ray.config.base import folder_name
from srpo_ray.data.cache.text_features import TextCache
from srpo_ray.data.texts import read_texts
from tests.conftest import ROOT, SMALL_WORLD

OTHER_OBJECTIVE = {"distribution", "long_align", "balanced_dpo", "video_dpo", "pso_online"}
"""Presets that are no methods of the study: other rewards, or other choices of pairs than that of online DPO."""


def test_every_preset_that_asks_a_reward_is_a_method_or_has_another_objective(script) -> None:
    methods = script("gradient_methods").METHODS
    files = (ROOT / "configs" / "algorithms").glob("*.yaml")
    # A method that asks no reward in its updates does not estimate the gradient of one.
    presets = {path.stem for path in files if load_run([SMALL_WORLD, path]).algorithm.inputs.reward != "none"}
    asking = {method.preset for method in methods.values() if "data.pairs" not in str(method.settings)}
    assert asking - {None} == presets - OTHER_OBJECTIVE
    assert len({folder_name(name) for name in methods}) == len(methods)


def test_all_methods_have_the_sampler_rewards_and_weights_of_the_objective(script, tmp_path: Path) -> None:
    module = script("gradient_methods")
    methods, references = module.METHODS, module.REFERENCES
    configs = {name: method.config(tmp_path) for name, method in methods.items()}
    first = configs["whole trajectory"]
    assert first.model.lora is None
    assert first.rollout.num_steps == first.algorithm.calls(12).chained == 12
    for name, config in configs.items():
        expected = 1.0 if "unguided" in name else 3.5
        assert (config.rollout.num_steps, config.rollout.guidance_scale) == (12, expected), name
        objective = methods[name].objective
        reference = configs[references[objective]]
        assert (config.model, config.rewards) == (first.model, reference.rewards), name
        assert config.algorithm.word_set == ("detailed" if objective == "words" else None), name
        assert not config.algorithm.anchor.data, name


@pytest.mark.parametrize(
    ("value", "half_width", "cell"),
    [
        (0.98765, 0.0123, "0.988 ± 0.012"),
        (0.98765, 0.123, "0.99 ± 0.12"),
        (12.5, 30.0, "12 ± 30"),
        (0.98765, None, "not determined"),
        (None, None, "not determined"),
    ],
)
def test_a_cell_has_two_digits_of_its_interval(
    script, value: float | None, half_width: float | None, cell: str
) -> None:
    script("gradient_methods")
    assert script("gradient_table")._cell(value, half_width) == cell


def test_texts_of_all_methods_are_encoded_before_processes_measure_them(script, tmp_path: Path) -> None:
    methods, measure = script("gradient_methods").METHODS, script("gradient_measure")
    names = ["ReFL", "ImageReFL"]
    measure.prepare(measure.Options(1, 1, 1, 1, 1, 1, str(tmp_path)), names)
    for name in names:
        config = methods[name].config(tmp_path)
        assert TextCache.of(config).missing(read_texts(config).trained.conditioning) == [], name

"""Sizes of images before a run starts: what its model can draw, and the grids and measures of its evaluations."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from srpo_ray.algorithms import build_algorithm
from srpo_ray.config import RunConfig, apply
from srpo_ray.config.size import ImageSize
from srpo_ray.data.prompt_rows import PromptRows
from srpo_ray.launch.preflight import check_image_sizes
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.models.sizes import check_sizes, stored_config
from srpo_ray.models.trainable import make_policy
from srpo_ray.training.evaluation import make_evaluator

NOTHING = Conditioning(torch.zeros(1, 1, 1), torch.zeros(1, 1))
FILES = {"evaluation.prompts": "prompts.txt", "evaluation.test": {"prompts": "test.txt"}}


@pytest.mark.parametrize("key", ["model.resolution", "evaluation.resolution", "evaluation.test.resolution"])
def test_sides_are_multiples_of_an_image_token_of_the_model(key: str, tiny_run: RunConfig, tmp_path: Path) -> None:
    # Five levels: a latent has 16 x 16 pixels, a token 32 x 32.
    (tmp_path / "vae").mkdir()
    (tmp_path / "transformer").mkdir()
    (tmp_path / "vae" / "config.json").write_text(json.dumps({"block_out_channels": [8] * 5, "latent_channels": 4}))
    (tmp_path / "transformer" / "config.json").write_text("{}")
    path = str(tmp_path)
    sizes = apply(tiny_run, {**FILES, "model.resolution": 64, "evaluation.resolution": 64, key: [64, 48]}).image_sizes
    with pytest.raises(ValueError, match=rf"{key}: expected multiples of 32 .* \[64, 48\].*\[64, 32\] and 64"):
        check_sizes(path, sizes, stored_config(path))
    check_sizes(path, {key: ImageSize(64, 96)}, stored_config(path))
    (tmp_path / "vae" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"model.path: expected a pipeline .* whose vae cannot be read"):
        check_sizes(path, {key: ImageSize(64, 96)}, stored_config(path))


def test_truth_of_the_small_world_is_measured_at_its_own_size_alone(tiny_run: RunConfig) -> None:
    check_image_sizes(apply(tiny_run, {"model.resolution": 32, "evaluation.resolution": 64}))
    check_image_sizes(apply(tiny_run, {**FILES, "model.resolution": [32, 48]}))
    for changes in ({"model.resolution": 32}, {"evaluation.resolution": [64, 48]}):
        with pytest.raises(
            ValueError, match=r"evaluation.resolution: expected 64 with small_world:validation, .* only"
        ):
            check_image_sizes(apply(tiny_run, changes))
    with pytest.raises(ValueError, match=r"evaluation.test.resolution: expected 64 with small_world:test, .* got 128"):
        check_image_sizes(apply(tiny_run, {"evaluation.test": {"resolution": 128}}))


def test_embedded_images_are_trained_at_their_own_size_alone(tiny_run: RunConfig) -> None:
    pairs = {**FILES, "algorithm": {"type": "preference"}, "data.pairs": "small_world:pairs"}
    several = {**pairs, "model.resolution": None, "training.micro_batch_size": 1, "evaluation.resolution": 64}
    check_image_sizes(apply(tiny_run, {**several, "model.sizes": [[32, 64], 64, 32]}))
    with pytest.raises(ValueError, match=r"data.pairs: expected images of 64 pixels with small_world:pairs, got 32"):
        check_image_sizes(apply(tiny_run, {**several, "model.sizes": [32, 64]}))
    with pytest.raises(ValueError, match=r"data.images: expected .* small_world:realistic, got \[48, 64\]"):
        check_image_sizes(
            apply(tiny_run, {**FILES, "data.images": "small_world:realistic", "model.resolution": [48, 64]})
        )


def test_grids_of_evaluations_follow_the_image_tokens_of_their_own_size(tiny_run: RunConfig) -> None:
    changes: dict[str, Any] = {**FILES, "rollout.shift": "resolution", "model.resolution": 512}
    config = apply(tiny_run, {**changes, "evaluation.resolution": [768, 1344], "evaluation.test.resolution": 1024})
    even = torch.linspace(1, 0, config.evaluation.num_steps + 1, dtype=torch.float64)

    def closed_form(tokens: int) -> torch.Tensor:
        # FLUX.1-dev: mu is 0.5 at 256 tokens and 1.15 at 4096, linear between.
        shift = math.exp(0.5 + 0.65 * (tokens - 256) / 3840)
        return shift * even / (1 + (shift - 1) * even)

    def evaluated(section: Any) -> Any:
        return make_evaluator(config, section, PromptRows.plain(["a"]), features=lambda _: NOTHING)

    found = sigma_grid(config.model)(config.evaluation.num_steps, "resolution")
    torch.testing.assert_close(found, closed_form(32 * 32), rtol=1e-12, atol=0)
    validation, test = evaluated(config.evaluation), evaluated(config.evaluation.tested)
    torch.testing.assert_close(validation.sigmas, closed_form(48 * 84), rtol=1e-12, atol=0)
    torch.testing.assert_close(test.sigmas, closed_form(64 * 64), rtol=1e-12, atol=0)
    assert (validation.size, test.size) == ((768, 1344), (1024, 1024))


def test_algorithm_takes_the_grid_and_the_window_of_the_present_size(tiny_run: RunConfig) -> None:
    sizes: dict[str, Any] = {"model.resolution": None, "model.sizes": [256, [512, 1024]], "evaluation.resolution": 64}
    shifts = {"rollout.shift": "resolution", "algorithm.window_shift": "resolution"}
    config = apply(tiny_run, {**sizes, **shifts, "training.micro_batch_size": 1})
    network: Any = None
    policy = make_policy(config, network, {}, "cpu")
    algorithm: Any = build_algorithm(config, policy, network)
    for size in config.model.all_sizes:
        alone = apply(tiny_run, {**shifts, "model.resolution": size})
        expected: Any = build_algorithm(alone, make_policy(alone, network, {}, "cpu"), network)
        with policy.at_size(size):
            assert torch.equal(algorithm.sigmas, expected.sigmas)
            assert torch.equal(algorithm.window.sigmas, expected.window.sigmas)
    assert policy.size == (512, 1024)

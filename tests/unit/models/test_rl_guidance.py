"""Guidance between the base model and the tuned model, against both models loaded separately."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.models.guidance import load_guided
from srpo_ray.models.latents import position_ids
from srpo_ray.models.trainable import load_tuned
from tests.conftest import SMALL_WORLD

KINDS = {"full": (), "lora": ("model.lora={rank: 4, alpha: 8}",)}


def config_and_weights(kind: str) -> tuple[RunConfig, dict[str, Tensor]]:
    """A run of that kind, and trained weights far from the initial ones."""
    config = load_run([SMALL_WORLD], KINDS[kind])
    source = torch.Generator().manual_seed(0)
    parameters = load_tuned(config, torch.float32, "cpu", None).named_parameters()
    return config, {
        name: (parameter + 0.05 * torch.randn(parameter.shape, generator=source)).detach()
        for name, parameter in parameters
        if parameter.requires_grad
    }


def inputs(transformer: Any) -> dict[str, Any]:
    source = torch.Generator().manual_seed(1)
    config = transformer.config
    return {
        "hidden_states": torch.randn(2, 16, config["in_channels"], generator=source),
        "timestep": torch.tensor([0.9, 0.3]),
        "guidance": torch.full((2,), 3.5),
        "pooled_projections": torch.randn(2, config["pooled_projection_dim"], generator=source),
        "encoder_hidden_states": torch.randn(2, 4, config["joint_attention_dim"], generator=source),
        "txt_ids": torch.zeros(4, 3),
        "img_ids": position_ids(8, 8),
        "return_dict": False,
    }


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_velocity_is_base_plus_weight_times_the_difference_to_tuned(kind: str) -> None:
    config, weights = config_and_weights(kind)
    guided, transformer = load_guided(config, torch.float32, "cpu", weights, [0.0, 1.0, 1.5])
    asked = inputs(transformer)
    (base,) = load_tuned(load_run([SMALL_WORLD]), torch.float32, "cpu", None)(**asked)
    (tuned,) = load_tuned(config, torch.float32, "cpu", weights)(**asked)
    assert (tuned - base).abs().max() > 0.01

    # 1 comes after 0 and 1.5, which switch the adapters off and have to switch them on again.
    for weight, expected in ((0.0, base), (1.0, tuned), (0.0, base)):
        guided.weight = weight
        assert torch.equal(guided(**asked)[0], expected)
    guided.weight = 1.5
    expected = base.double() + 1.5 * (tuned.double() - base.double())
    torch.testing.assert_close(guided(**asked)[0].double(), expected, rtol=0, atol=1e-5)
    guided.weight = 1.0
    assert torch.equal(guided(**asked)[0], tuned)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("weight", "calls"), [(0.0, 1), (1.0, 1), (2.0, 2)])
@torch.no_grad()
def test_base_and_tuned_alone_cost_one_call(kind: str, weight: float, calls: int) -> None:
    config, weights = config_and_weights(kind)
    guided, transformer = load_guided(config, torch.float32, "cpu", weights, [weight])
    guided.weight = weight
    asked, made = inputs(transformer), []
    for network in {transformer, guided.base}:
        if isinstance(network, torch.nn.Module):
            network.register_forward_hook(lambda *_: made.append(1))
    guided(**asked)
    assert len(made) == calls


def test_run_that_learned_nothing_is_its_base_at_every_weight() -> None:
    config = load_run([SMALL_WORLD])
    guided, transformer = load_guided(config, torch.float32, "cpu", None, [0.0, 1.0, 2.0])
    asked = inputs(transformer)
    with torch.no_grad():
        expected = transformer(**asked)[0]
        for weight in (0.0, 1.0, 2.0):
            guided.weight = weight
            assert torch.equal(guided(**asked)[0], expected)


def test_adapters_are_enabled_again_after_a_failed_call() -> None:
    config, weights = config_and_weights("lora")
    guided, transformer = load_guided(config, torch.float32, "cpu", weights, [0.0, 1.0])
    guided.weight = 0.0
    with torch.no_grad():
        expected = transformer(**inputs(transformer))[0]
        with pytest.raises(TypeError):
            guided(unknown=1)
        assert torch.equal(transformer(**inputs(transformer))[0], expected)


@torch.no_grad()
def test_base_of_a_run_that_continues_a_lora_has_no_adapters_and_its_untrained_model_has_them(tmp_path: Path) -> None:
    config, weights = config_and_weights("lora")
    tensors = {f"transformer.{name.replace('.default.', '.')}": value for name, value in weights.items()}
    layers = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    alphas = {f"{layer}.alpha": torch.tensor(8.0) for layer in layers}
    save_file(tensors | alphas, tmp_path / "start.safetensors")
    continued = apply(config, {"model.lora.start_from": str(tmp_path / "start.safetensors")})
    guided, transformer = load_guided(continued, torch.float32, "cpu", None, [0.0, 1.0])
    asked = inputs(transformer)
    (base,) = load_tuned(load_run([SMALL_WORLD]), torch.float32, "cpu", None)(**asked)
    (start,) = load_tuned(config, torch.float32, "cpu", weights)(**asked)
    for weight, expected in ((0.0, base), (1.0, start)):
        guided.weight = weight
        assert torch.equal(guided(**asked)[0], expected)
    # At weight 0 alone, adapters are not trained ones either.
    guided, _ = load_guided(continued, torch.float32, "cpu", weights, [0.0])
    guided.weight = 0.0
    assert torch.equal(guided(**asked)[0], base)

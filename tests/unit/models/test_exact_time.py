"""Sigma and guidance reach the time embedding in float32, also where the transformer computes in bfloat16."""

import math
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from srpo_ray.config.model import LoraConfig
from srpo_ray.models.attention import compile_blocks
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.contrast import Contrast, ContrastWeight
from srpo_ray.models.exact_time import embed_exact_times
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.models.loading import load_transformer, load_vae
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.models.sd3 import SD3Policy
from srpo_ray.models.trainable import add_adapters
from tests.helpers.models.tiny_sd3 import save_tiny_sd3

# All thousandths of the released window, sigma 0.9643 to 0.75.
SIGMAS = torch.arange(750, 965) / 1000


@pytest.fixture(scope="module")
def tiny_sd3(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_sd3(tmp_path_factory.mktemp("sd3")))


def tiny_flux(*, guides: bool = True) -> Any:
    """One block of each kind, with random weights, in bfloat16."""
    torch.manual_seed(0)
    transformer: Any = FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=64,
        pooled_projection_dim=32,
        guidance_embeds=guides,
        axes_dims_rope=(4, 6, 6),
    )
    transformer.to(torch.bfloat16)
    embed_exact_times(transformer)
    return transformer


def policy_of(transformer: Any, network: Any = None, dtype: torch.dtype = torch.bfloat16) -> FlowPolicy:
    kind = FluxPolicy if isinstance(transformer, FluxTransformer2DModel) else SD3Policy
    vae = load_vae("small_world", dtype)
    return kind(network or transformer, vae, transformer.config, resolution=64, dtype=dtype)


def velocity(policy: FlowPolicy, sigmas: Tensor, guidance: float = 1.0) -> Tensor:
    size = policy.transformer_config["pooled_projection_dim"]
    generator = torch.Generator().manual_seed(1)
    count, dtype = len(sigmas), policy.dtype
    tokens = torch.randn(1, 16, 64, generator=generator).expand(count, -1, -1)
    text = torch.randn(1, 16, 64, generator=generator).expand(count, -1, -1).to(dtype)
    pooled = torch.randn(1, size, generator=generator).expand(count, -1).to(dtype)
    return policy.velocity(tokens, sigmas, Conditioning(text, pooled), guidance)


def embedded(policy: FlowPolicy, transformer: Any, sigmas: Tensor, guidance: float = 1.0) -> list[Tensor]:
    """Inputs of the embedders of time and, if there is one, of guidance."""
    seen: list[Tensor] = []
    names = ("timestep_embedder", "guidance_embedder")
    embedders = [getattr(transformer.time_text_embed, name, None) for name in names]
    hooks = [each.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for each in embedders if each]
    with torch.no_grad():
        velocity(policy, sigmas, guidance)
    for hook in hooks:
        hook.remove()
    return seen


def waves(thousandths: Tensor) -> Tensor:
    """Cosines and sines of 128 frequencies from 1 to 1/10000, as in the original diffusion models."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(128) / 128)
    angles = thousandths[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


@pytest.mark.parametrize("family", ["flux", "flux without guidance", "sd3"])
def test_bfloat16_model_sees_every_thousandth_of_sigma(family: str, tiny_sd3: str) -> None:
    transformer = load_transformer(tiny_sd3, torch.bfloat16) if family == "sd3" else tiny_flux(guides=family == "flux")
    time, *_ = embedded(policy_of(transformer), transformer, SIGMAS)
    assert time.dtype == torch.bfloat16
    assert len(torch.unique(time.float(), dim=0)) == len(SIGMAS) == 215
    torch.testing.assert_close(time.float(), waves(SIGMAS * 1000).bfloat16().float(), rtol=0, atol=2**-8)


def test_bfloat16_model_embeds_the_exact_guidance() -> None:
    transformer = tiny_flux()
    _, guidance = embedded(policy_of(transformer), transformer, SIGMAS[:1], guidance=3.5)
    torch.testing.assert_close(guidance.float(), waves(torch.tensor([3500.0])).bfloat16().float(), rtol=0, atol=2**-8)


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_velocity_of_a_sigma_is_not_that_of_the_rounded_one(family: str, tiny_sd3: str) -> None:
    transformer = tiny_flux() if family == "flux" else load_transformer(tiny_sd3, torch.bfloat16)
    # In bfloat16 0.8501 is 0.8516.
    sigma = torch.tensor([0.8501])
    with torch.no_grad():
        exact, rounded = (velocity(policy_of(transformer), each) for each in (sigma, sigma.bfloat16().float()))
    assert not torch.equal(exact, rounded)


def test_truncation_to_thousandths_has_an_effect_in_bfloat16() -> None:
    transformer = tiny_flux()
    cut = policy_of(transformer)
    cut.truncate_sigma = True
    sigmas = torch.tensor([0.85095])
    (found, _), (kept, _) = embedded(cut, transformer, sigmas), embedded(policy_of(transformer), transformer, sigmas)
    torch.testing.assert_close(found.float(), waves(torch.tensor([850.0])).bfloat16().float(), rtol=0, atol=2**-8)
    assert not torch.equal(found, kept)


class Engine:
    """Wraps a transformer as a training engine does."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, **inputs: Any) -> Any:
        return self.module(**inputs)


@pytest.mark.parametrize("wrapped", ["engine", "contrast", "checkpointing", "adapters", "compiled"])
def test_sigma_is_exact_however_the_transformer_is_called(wrapped: str) -> None:
    transformer = tiny_flux()
    network: Any = None
    if wrapped == "engine":
        network = Engine(transformer)
    elif wrapped == "checkpointing":
        transformer.enable_gradient_checkpointing()
    elif wrapped == "adapters":
        add_adapters(transformer, LoraConfig(rank=2), seed=0)
    else:
        compile_blocks(transformer, ("FluxTransformerBlock", "FluxSingleTransformerBlock"), backend="eager")
    policy = policy_of(transformer, network)
    if wrapped == "contrast":
        policy.contrast = Contrast(tiny_flux(), ContrastWeight.constant(0.5))
    time, _ = embedded(policy, transformer, SIGMAS)
    assert len(torch.unique(time.float(), dim=0)) == 215
    velocity(policy, SIGMAS[:2]).sum().backward()
    assert any(parameter.grad is not None for parameter in transformer.parameters())


def test_float32_model_computes_what_diffusers_computes() -> None:
    transformer = load_transformer("small_world", torch.float32).eval()
    plain: Any = FluxTransformer2DModel.from_pretrained(resolve_path("small_world"), subfolder="transformer")
    with torch.no_grad():
        found = velocity(policy_of(transformer, dtype=torch.float32), SIGMAS[:16], 3.5)
        expected = velocity(policy_of(plain, dtype=torch.float32), SIGMAS[:16], 3.5)
    assert torch.equal(found, expected)
    assert list(transformer.state_dict()) == list(plain.state_dict())

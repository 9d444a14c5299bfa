"""The policy against diffusers' own FluxPipeline, on the embedded model."""

from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from torch import Tensor

from srpo_ray.config import load_run
from srpo_ray.flow import shifted_sigmas
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.models.latents import pack, position_ids, unpack
from srpo_ray.models.loading import load_transformer, load_vae
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.policy import Evaluations
from srpo_ray.models.text_encoders import encode_prompts
from srpo_ray.models.trainable import make_policy
from tests.conftest import SMALL_WORLD

PROMPTS = ["a red circle on a gray background", "detailed. a blue square on a white background"]


@pytest.fixture(scope="module")
def policy() -> FluxPolicy:
    transformer = load_transformer("small_world", torch.float32).eval()
    vae = load_vae("small_world", torch.float32)
    return FluxPolicy(transformer, vae, transformer.config, resolution=64, dtype=torch.float32)


def test_pack_and_ids_equal_the_pipelines() -> None:
    latents = torch.randn(2, 16, 8, 12)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 16, 8, 12))
    ids = FluxPipeline._prepare_latent_image_ids(2, 4, 6, torch.device("cpu"), torch.float32)
    assert torch.equal(position_ids(8, 12), ids)
    assert torch.equal(unpack(pack(latents), 8, 12), latents)


@pytest.mark.parametrize(("truncate", "seen"), [(True, [0.964, 0.75, 1.0]), (False, [0.96428, 0.75, 1.0])])
def test_network_gets_sigmas_truncated_to_thousandths_on_request(
    policy: FluxPolicy, truncate: bool, seen: list[float]
) -> None:
    given: list[torch.Tensor] = []

    def network(**inputs: torch.Tensor) -> tuple[torch.Tensor]:
        given.append(inputs["timestep"])
        return (torch.zeros_like(inputs["hidden_states"]),)

    cut = FluxPolicy(
        network, policy.vae, {"guidance_embeds": False}, resolution=64, dtype=torch.float32, truncate_sigma=truncate
    )
    conditioning = Conditioning(torch.zeros(3, 16, 4), torch.zeros(3, 4))
    cut.velocity(torch.zeros(3, 16, 64), torch.tensor([0.96428, 0.75, 1.0]), conditioning, 1.0)
    torch.testing.assert_close(given[0], torch.tensor(seen), rtol=0, atol=1e-7)


def test_rollout_and_decode_draw_what_the_pipeline_draws(policy: FluxPolicy) -> None:
    pipeline: Any = FluxPipeline.from_pretrained(resolve_path("small_world"))
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0))
    even = torch.linspace(1, 0, 7)[:-1].tolist()
    theirs = pipeline(
        PROMPTS,
        latents=noise,
        sigmas=even,
        height=64,
        width=64,
        guidance_scale=3.5,
        max_sequence_length=16,
        output_type="pt",
    ).images
    conditioning = encode_prompts(resolve_path("small_world"), PROMPTS, 16)
    ours = policy.decode(policy.rollout(noise, conditioning, shifted_sigmas(6, 3.0), 3.5))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)


def test_gradient_reaches_the_transformer_and_not_the_frozen_vae(policy: FluxPolicy) -> None:
    conditioning = encode_prompts(resolve_path("small_world"), PROMPTS, 16)
    tokens = torch.randn(2, 16, 64)
    policy.decode(policy.velocity(tokens, torch.tensor([0.9, 0.8]), conditioning, 3.5)).sum().backward()
    network = policy.network
    assert isinstance(network, torch.nn.Module)
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(parameter.grad is None for parameter in policy.vae.parameters())


def test_decoder_recomputed_in_the_backward_pass_gives_the_same_image_and_gradient(policy: FluxPolicy) -> None:
    vae = load_vae("small_world", torch.float32)
    vae.enable_gradient_checkpointing()
    recomputing = FluxPolicy(policy.network, vae, policy.transformer_config, resolution=64, dtype=torch.float32)
    found = []
    for each in (policy, recomputing):
        tokens = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(3)).requires_grad_()
        image = each.decode(tokens)
        image.square().sum().backward()
        found.append((image.detach(), tokens.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


NO_NETWORK: Any = None


@pytest.mark.parametrize("checkpointed", [False, True])
def test_vae_in_channels_last_gives_the_same_images_and_gradients(checkpointed: bool) -> None:
    keys = (f"model.vae_checkpointing={checkpointed}".lower(),)
    found: list[tuple[Tensor, Tensor]] = []
    for channels_last in ("false", "true"):
        config = load_run([SMALL_WORLD], [*keys, f"model.vae_channels_last={channels_last}"])
        policy = make_policy(config, NO_NETWORK, {}, "cpu")
        formats: list[bool] = []
        decoder: Any = policy.vae.decoder
        decoder.conv_in.register_forward_hook(
            lambda _, __, made, formats=formats: formats.append(made.is_contiguous(memory_format=torch.channels_last))
        )
        tokens = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(3)).requires_grad_()
        image = policy.decode(tokens)
        image.square().sum().backward()
        assert set(formats) == {channels_last == "true"}
        assert tokens.grad is not None
        found.append((image.detach(), tokens.grad))
        torch.testing.assert_close(policy.encode(image.detach()), policy.encode(found[0][0]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_evaluations_are_counted_by_sample_without_and_with_gradient(policy: FluxPolicy) -> None:
    conditioning = encode_prompts(resolve_path("small_world"), PROMPTS, 16)
    policy.take_evaluations()
    tokens = policy.rollout(torch.randn(2, 16, 64), conditioning, shifted_sigmas(3, 3.0), 3.5)
    policy.integrate(tokens, conditioning, torch.tensor([0.5, 0.2, 0.0]), 3.5)
    assert policy.take_evaluations() == Evaluations(forward=6, forward_backward=4)
    assert policy.take_evaluations() == Evaluations()


def test_trajectory_has_the_points_of_the_rollout_to_the_bit(policy: FluxPolicy) -> None:
    conditioning, sigmas = encode_prompts(resolve_path("small_world"), PROMPTS, 16), shifted_sigmas(3, 3.0)
    noise = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0))
    policy.take_evaluations()
    points = policy.trajectory(noise, conditioning, sigmas, 3.5)
    assert policy.take_evaluations() == Evaluations(forward=6)
    assert not points.requires_grad
    for count, point in enumerate(points):
        assert torch.equal(point, policy.rollout(noise, conditioning, sigmas[: count + 1], 3.5))


def test_encode_and_decode_are_near_inverses(policy: FluxPolicy) -> None:
    from srpo_ray.small_world.renderer import render
    from srpo_ray.small_world.scenes import sample_scenes

    images = torch.as_tensor(render(sample_scenes(16, seed=5)))
    error = (policy.decode(policy.encode(images)) - images).pow(2).mean()
    assert -10 * torch.log10(error).item() > 20

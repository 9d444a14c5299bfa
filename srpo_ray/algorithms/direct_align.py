"""Direct-Align (arXiv 2509.06942): a clean picture from any noise level, because the noise is known."""

from dataclasses import dataclass

from torch import Tensor

from srpo_ray.flow import euler_step, generator, mix, recover_clean, shifted_sigmas
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.models.text import Conditioning


@dataclass(frozen=True)
class Rollout:
    """Clean samples and the noise that they are mixed with again."""

    clean: Tensor
    """Clean tokens `[B, N, 64]`."""
    noise: Tensor
    """Noise tokens `[B, N, 64]`."""


def sample_rollout(
    policy: FluxPolicy,
    conditioning: Conditioning,
    addresses: list[tuple[int, ...]],
    *,
    seed: int,
    num_steps: int,
    shift: float,
    guidance_scale: float,
) -> Rollout:
    """Sample clean tokens from addressed noise, and keep that noise.

    Args:
        policy: The model that is tuned.
        conditioning: Text features, B of them.
        addresses: Address of each sample's noise, B of them; equal addresses share one noise.
        seed: Seed of the run.
        num_steps: Euler steps.
        shift: Shift of the sigma grid.
        guidance_scale: Guidance embedding of the rollout.
    """
    noise = policy.noise([generator(seed, "rollout", *address) for address in addresses])
    sigmas = shifted_sigmas(num_steps, shift)
    return Rollout(policy.rollout(noise, conditioning, sigmas, guidance_scale), noise)


def encode_images(policy: FluxPolicy, images: Tensor, addresses: list[tuple[int, ...]], *, seed: int) -> Rollout:
    """Clean tokens of real pictures, and fresh noise to mix them with.

    Args:
        policy: The model that is tuned.
        images: `[B, 3, H, W]` in [0, 1].
        addresses: Address of each sample's noise, B of them; equal addresses share one noise.
        seed: Seed of the run.
    """
    noise = policy.noise([generator(seed, "real", *address) for address in addresses])
    return Rollout(policy.encode(images), noise)


def direct_align(
    policy: FluxPolicy,
    rollout: Rollout,
    conditioning: Conditioning,
    start: Tensor,
    landing: Tensor,
    guidance_scale: float,
) -> Tensor:
    """One transformer step with gradient from `start` to `landing`, then the clean picture by the known noise.

    If the velocity is exactly `noise - clean`, the picture is exactly the rollout's, whatever the two sigmas.

    Args:
        policy: The model that is tuned.
        rollout: Clean tokens and their noise, B of them.
        conditioning: Text features, B of them.
        start: Sigma that each sample is re-noised to, `[B]`.
        landing: Sigma that the step ends at, `[B]` below 1; above `start` the step inverts.
        guidance_scale: Guidance embedding of the step.

    Returns:
        Pictures `[B, 3, H, W]` in [0, 1], with gradient to the transformer.
    """
    noisy = mix(rollout.clean, rollout.noise, start)
    velocity = policy.velocity(noisy, start, conditioning, guidance_scale)
    landed = euler_step(noisy, velocity, start, landing)
    return policy.decode(recover_clean(landed, rollout.noise, landing))


def gradient_scale(start: Tensor, landing: Tensor) -> Tensor:
    """`d clean / d velocity = (landing - start) / (1 - landing)`: the weight that a noise level carries by itself."""
    return (landing - start) / (1 - landing)

"""Direct-Align (arXiv 2509.06942): a clean picture from any noise level, because the noise is known.

The functions are the idea, and SRPO uses them too; `DirectAlign` is the plain algorithm: one step towards data,
scored against the prompt itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from srpo_ray.algorithms.base import Batch, PendingLoss
from srpo_ray.algorithms.reward_loss import reward_loss
from srpo_ray.config.baselines import DirectAlignConfig
from srpo_ray.config.model import RolloutConfig
from srpo_ray.flow import (
    euler_step,
    generator,
    mix,
    recover_clean,
    shifted_sigmas,
    uniform_integer,
    window_sigmas,
)
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.models.text import Conditioning
from srpo_ray.rewards.base import RewardScorer

MARGIN = 5
"""Points at either end of the window that no update lands on."""


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


class DirectAlign:
    """Direct-Align with a plain reward."""

    losses_in_flight = 1

    def __init__(
        self,
        config: DirectAlignConfig,
        rollout: RolloutConfig,
        policy: FluxPolicy,
        rewards: RewardScorer,
        seed: int,
    ) -> None:
        self.config = config
        self.rollout = rollout
        self.policy = policy
        self.rewards = rewards
        self.seed = seed
        self.sigmas = window_sigmas(
            config.timestep_window, config.window_grid_steps, config.window_points, config.window_shift
        )

    def collect(self, batch: Batch) -> Rollout:
        """Sample clean pictures' tokens for the batch, without gradient."""
        shared = self.config.shared_noise
        return sample_rollout(
            self.policy,
            batch.conditioning,
            [(batch.step,) if shared else (batch.step, sample) for sample in batch.samples],
            seed=self.seed,
            num_steps=self.rollout.num_steps,
            shift=self.rollout.shift,
            guidance_scale=self.rollout.guidance_scale,
        )

    def losses(self, batch: Batch, collected: Rollout) -> Iterator[PendingLoss]:
        """Yield the one loss of the batch."""
        config = self.config
        start, landing = self._steps(batch)
        images = direct_align(self.policy, collected, batch.conditioning, start, landing, config.guidance_scale)
        metrics = {"step/gradient_scale/denoise": gradient_scale(start, landing), "step/landing_sigma/denoise": landing}
        yield reward_loss(self.rewards, batch, images, "denoise", metrics=metrics, hinge=config.hinge)

    def _steps(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Start and landing sigma of every sample, `[B]` each; a stride that would leave the window is cut."""
        count = len(self.sigmas)
        full_stride = int((1 - self.config.interpolation_strength) * count) + 1
        starts, landings = [], []
        for sample in batch.samples:
            # Counted from the noisy end; the same draw as SRPO's, whose denoise branch this is.
            landing = count - uniform_integer(MARGIN, count - MARGIN, self.seed, "landing", batch.step, sample)
            starts.append(landing - min(full_stride, landing, count - landing))
            landings.append(landing)
        return self.sigmas[starts].float(), self.sigmas[landings].float()

"""Direct-Align (arXiv 2509.06942): a clean picture from any noise level, because the noise is known.

The functions are the idea, and SRPO uses them too; `DirectAlign` is the plain algorithm: one step towards data,
scored against the prompt itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Batch, PendingLoss, PlainAlgorithm, rollout_sigmas
from srpo_ray.algorithms.reward_loss import reward_loss
from srpo_ray.config.base import Scope
from srpo_ray.config.baselines import DirectAlignConfig
from srpo_ray.config.model import RolloutConfig
from srpo_ray.flow import (
    euler_step,
    generator,
    mix,
    recover_clean,
    uniform_integer,
    window_sigmas,
)
from srpo_ray.models.policy import FlowPolicy
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


def collect_rollout(policy: FlowPolicy, batch: Batch, rollout: RolloutConfig, noise_scope: Scope, seed: int) -> Rollout:
    """Clean tokens of a batch without gradient, sampled or those of its real pictures, and the noise to mix in.

    Args:
        policy: The model that is tuned.
        batch: The prompts.
        rollout: Steps, shift and guidance of the sampler.
        noise_scope: Which samples of an update share one noise.
        seed: Seed of the run.
    """
    purposes = ["real" if row in batch.real else "rollout" for row in range(len(batch.samples))]
    addresses = [address(noise_scope, batch, sample) for sample in batch.samples]
    noise = policy.noise([generator(seed, purpose, *parts) for purpose, parts in zip(purposes, addresses, strict=True)])
    clean = torch.empty_like(noise)
    sampled = [row for row, purpose in enumerate(purposes) if purpose == "rollout"]
    if sampled:
        sigmas = rollout_sigmas(rollout)
        clean[sampled] = policy.rollout(noise[sampled], batch.conditioning[sampled], sigmas, rollout.guidance_scale)
    for row, tokens in batch.real.items():
        clean[row] = tokens
    return Rollout(clean, noise)


def address(scope: Scope, batch: Batch, sample: int) -> tuple[int, ...]:
    """Address of a draw in an update: samples with the same one get the same draw."""
    own = {"shared": (), "per_worker": (batch.worker,), "per_sample": (sample,)}[scope]
    return (batch.step, *own)


def direct_align(
    policy: FlowPolicy,
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


def window_stride(draw: int, count: int, interpolation_strength: float) -> int:
    """Points between start and landing, cut where the step would leave the window.

    Args:
        draw: Landing point, counted from the window's clean end.
        count: Points of the window.
        interpolation_strength: Share of the window that is not stepped over, in (0, 1).
    """
    return min(int((1 - interpolation_strength) * count) + 1, count - draw, draw)


def gradient_scale(start: Tensor, landing: Tensor) -> Tensor:
    """`d clean / d velocity = (landing - start) / (1 - landing)`: the weight that a noise level carries by itself."""
    return (landing - start) / (1 - landing)


class DirectAlign(PlainAlgorithm[DirectAlignConfig]):
    """Direct-Align with a plain reward."""

    def __init__(
        self, config: DirectAlignConfig, rollout: RolloutConfig, policy: FlowPolicy, rewards: RewardScorer, seed: int
    ) -> None:
        super().__init__(config, rollout, policy, rewards, seed)
        self.sigmas = window_sigmas(
            config.timestep_window, config.window_grid_steps, config.window_points, config.window_shift
        )

    def collect(self, batch: Batch) -> Rollout:
        """Clean tokens of the batch without gradient, and their noise."""
        return collect_rollout(self.policy, batch, self.rollout, self.config.noise, self.seed)

    def losses(self, batch: Batch, collected: Rollout) -> Iterator[PendingLoss]:
        """Yield the one loss of the batch."""
        config = self.config
        start, landing = self._steps(batch)
        images = direct_align(self.policy, collected, batch.conditioning, start, landing, config.guidance_scale)
        metrics = {"step/gradient_scale/denoise": gradient_scale(start, landing), "step/landing_sigma/denoise": landing}
        yield reward_loss(self.rewards, batch, images, "denoise", metrics=metrics, hinge=config.hinge)

    def _steps(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Start and landing sigma of every sample, `[B]` each."""
        count = len(self.sigmas)
        starts, landings = [], []
        for sample in batch.samples:
            # The same draw as SRPO's, whose denoise branch this is.
            draw = uniform_integer(MARGIN, count - MARGIN, self.seed, "landing", batch.step, sample, 0)
            starts.append(count - draw - window_stride(draw, count, self.config.interpolation_strength))
            landings.append(count - draw)
        return self.sigmas[starts].float(), self.sigmas[landings].float()

"""ReFL (ImageReward, arXiv 2304.05977): reward of the clean image predicted at one late step.

The sampler runs without gradient to a random late step. One call with gradient predicts the clean image from there.
Earlier steps get no gradient, because their prediction is too blurred for a reward model. ImageReFL (arXiv 2505.22569)
starts from real images, noised to the first late step.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from srpo_ray.algorithms.base import Algorithm, Batch, Loss
from srpo_ray.algorithms.reward_loss import reward_loss
from srpo_ray.config.algorithms.refl import ReFLConfig
from srpo_ray.flow import euler_step, mix


@dataclass(frozen=True)
class LatePoint:
    """Point at which the sampler stopped."""

    tokens: Tensor
    """Tokens at `sigma`, `[B, N, 64]`."""
    sigma: Tensor
    """Sigma of the point, `[B]`, equal for all samples."""

    def __getitem__(self, rows: slice) -> "LatePoint":
        return LatePoint(self.tokens[rows], self.sigma[rows])


class ReFL(Algorithm[ReFLConfig]):
    """Reward feedback learning."""

    def collect(self, batch: Batch) -> LatePoint:
        """Sample up to the step drawn for the update, without gradient."""
        tokens, start = self.noise(batch), 0
        last = self.rollout.num_steps - 1
        first = self.rollout.num_steps - self.config.late_steps(self.rollout.num_steps)
        # Draw once for all samples and workers, because the step determines the number of transformer calls.
        stop = batch.draws.integer("refl_step", first, last)
        if not self.config.is_plain(batch.draws.update):
            assert batch.images is not None, "the config requires images for all samples"
            tokens, start = mix(batch.images[:, 0].to(tokens), tokens, self.sigmas[first].expand(len(tokens))), first
        tokens = self.sample(tokens, batch.conditioning, self.sigmas[start : stop + 1])
        return LatePoint(tokens, self.sigmas[stop].expand(len(tokens)))

    def reached(self, collected: LatePoint) -> tuple[Tensor, Tensor]:
        """Return the point at which the sampler stopped."""
        return collected.tokens, collected.sigma

    def losses(self, batch: Batch, collected: LatePoint, part: int = 0) -> Iterator[Loss]:
        """Yield the single loss of the batch."""
        tokens, sigma = collected.tokens, collected.sigma
        velocity = self.policy.velocity(tokens, sigma, batch.conditioning, self.rollout.guidance_scale)
        clean = euler_step(tokens, velocity, sigma, sigma.new_zeros(len(sigma)))
        images = self.policy.decode_for_training(clean)
        metrics = {"step/sigma/predicted": sigma}
        queries = self.queries(batch)
        yield reward_loss(self.rewards, images, queries, "predicted", metrics=metrics, hinge=self.config.hinge)

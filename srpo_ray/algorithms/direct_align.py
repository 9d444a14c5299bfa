"""Direct-Align (arXiv 2509.06942): recovery of a clean image from any noise level with the known noise.

SRPO uses the functions too. `DirectAlign` is the plain algorithm: one step towards data, scored against the prompt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from srpo_ray.algorithms.advantages import rows_of, table_of_update
from srpo_ray.algorithms.base import Algorithm, Batch, Gather, Loss
from srpo_ray.algorithms.distribution import ScoredRollout, assign, attribute_margins, attribute_queries
from srpo_ray.algorithms.reward_loss import reward_loss
from srpo_ray.algorithms.rollout import Rollout
from srpo_ray.algorithms.window import Window, build_window
from srpo_ray.config.algorithms.direct_align import DirectAlignConfig
from srpo_ray.config.base import Scope
from srpo_ray.flow import SigmaGrid, euler_step, mix, recover_clean
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.rewards.query import TextQuery

if TYPE_CHECKING:
    from srpo_ray.models.policy import FlowPolicy


def collect_rollout(algorithm: Algorithm[Any], batch: Batch, noise_scope: Scope) -> Rollout:
    """Collect the clean tokens of a batch, sampled without gradient or given as images, and the noise to mix in.

    Args:
        algorithm: Algorithm that samples.
        batch: Micro-batch.
        noise_scope: Samples of an update that share one noise.
    """
    sources = {purpose: batch.draws.generators(purpose, scope=noise_scope) for purpose in ("real", "rollout")}
    rows, given = range(len(batch.prompts)), list(batch.image_rows)
    noise = algorithm.policy.noise([sources["real" if row in given else "rollout"][row] for row in rows])
    clean = torch.empty_like(noise)
    sampled = [row for row in rows if row not in given]
    if sampled:
        clean[sampled] = algorithm.sample(noise[sampled], batch.conditioning[sampled], algorithm.sigmas)
    if batch.images is not None:
        clean[given] = batch.images[given, 0]
    return Rollout(clean, noise)


def direct_align(
    policy: "FlowPolicy",
    rollout: Rollout,
    conditioning: Conditioning,
    start: Tensor,
    landing: Tensor,
    guidance_scale: float,
) -> Tensor:
    """Make one transformer step with gradient from `start` to `landing`, then recover the clean image.

    If the velocity is exactly `noise - clean`, the image equals the rollout's for any two sigmas.

    Args:
        policy: Model that is trained.
        rollout: Clean tokens and their noise, B of each.
        conditioning: Text features, B of them.
        start: Sigma to which each sample is renoised, `[B]`.
        landing: Sigma at the end of the step, `[B]` below 1; above `start` the step inverts.
        guidance_scale: Guidance embedding of the step.

    Returns:
        Images `[B, 3, H, W]` in [0, 1], with gradient to the transformer.
    """
    noisy = mix(rollout.clean, rollout.noise, start)
    velocity = policy.velocity(noisy, start, conditioning, guidance_scale)
    landed = euler_step(noisy, velocity, start, landing)
    return policy.decode_for_training(recover_clean(landed, rollout.noise, landing))


def gradient_scale(start: Tensor, landing: Tensor) -> Tensor:
    """Compute `d clean / d velocity = (landing - start) / (1 - landing)`: the implicit weight of a noise level."""
    return (landing - start) / (1 - landing)


class DirectAlign(Algorithm[DirectAlignConfig]):
    """Direct-Align with a plain reward."""

    @classmethod
    def check_grid(cls, config: DirectAlignConfig, grid: SigmaGrid) -> None:
        """Check that a step fits in the window."""
        build_window(config, grid)

    @property
    def window(self) -> Window:
        """Window of the landing sigmas, at the present size of the images."""
        return build_window(self.config, self.grid)

    def collect(self, batch: Batch) -> Rollout:
        """Collect the clean tokens of the batch without gradient, their noise, and the scores of their attributes."""
        rollout = collect_rollout(self, batch, self.config.noise)
        return self._scored(batch, rollout) if self.config.distribution else rollout

    def _scored(self, batch: Batch, rollout: Rollout) -> ScoredRollout:
        """Score the images without gradient for each attribute."""
        assert self.config.distribution
        images, texts = self.policy.decode_for_training(rollout.clean), self.config.distribution.attributes
        queries = ([TextQuery.plain(f"{word}. {prompt}") for prompt in batch.prompts] for word in texts)
        pending = [self.rewards.submit(images.detach(), each) for each in queries]
        scores = torch.stack([each.result().total for each in pending], dim=1)
        offsets = scores.new_tensor(self.config.distribution.offsets or [0.0] * len(texts))
        return ScoredRollout(rollout.clean, rollout.noise, scores + offsets)

    def settle(self, rounds: Sequence[tuple[Batch, Rollout]], gather: Gather) -> list[Rollout]:
        """Assign attributes to all images of the update, if there is a target distribution."""
        target = self.config.distribution
        if not target:
            return super().settle(rounds, gather)
        batches, found = zip(*((b, r) for b, r in rounds if isinstance(r, ScoredRollout)), strict=True)
        table = table_of_update(batches, [rollout.scores for rollout in found], gather)
        assigned = assign(table, target.shares)[:, None]
        return [
            replace(rollout, assigned=rows_of(assigned, batch)) for batch, rollout in zip(batches, found, strict=True)
        ]

    def reached(self, collected: Rollout) -> tuple[Tensor, Tensor]:
        """Return the clean tokens."""
        return collected.clean, collected.clean.new_zeros(len(collected.clean))

    def losses(self, batch: Batch, collected: Rollout, part: int = 0) -> Iterator[Loss]:
        """Yield the single loss of the batch."""
        config = self.config
        start, landing = self._steps(batch)
        images = direct_align(self.policy, collected, batch.conditioning, start, landing, config.guidance_scale)
        metrics = {"step/gradient_scale/denoise": gradient_scale(start, landing), "step/landing_sigma/denoise": landing}
        queries, hinge = self.queries(batch), config.hinge
        if isinstance(collected, ScoredRollout) and collected.assigned is not None and config.distribution:
            words = config.distribution.attributes
            queries = attribute_queries(words, batch.prompts, collected.assigned.tolist())
            if config.distribution.offsets:
                hinge = hinge - attribute_margins(config.distribution.offsets, collected.assigned)
            best = collected.scores.argmax(dim=1)
            metrics |= {f"distribution/share/{word}": (best == index).float() for index, word in enumerate(words)}
        yield reward_loss(self.rewards, images, queries, "denoise", metrics=metrics, hinge=hinge)

    def _steps(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Draw start and landing sigma of every sample, `[B]` each."""
        window, count = self.window, len(self.window)
        # These draws equal those of SRPO's denoise branch.
        draws = window.draw(self.config.landing, batch.draws, 0)
        starts = [count - draw - window.stride_at(draw) for draw in draws]
        landings = [count - draw for draw in draws]
        return window.sigmas[starts].float(), window.sigmas[landings].float()

"""Semantic Relative Preference Optimization (arXiv 2509.06942).

SRPO is Direct-Align with control words: an image is scored against the *difference* of two texts, so that the reward
model's bias cancels. An update has two branches with the same landing sigma. `denoise` steps towards data and is
rewarded for the positive word. `inversion` steps towards noise and is rewarded for the negative word; by its direction
it is a regulariser. Words change only the reward's text; the model's prompt is always plain.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Algorithm, Batch, Loss
from srpo_ray.algorithms.direct_align import collect_rollout, direct_align, gradient_scale
from srpo_ray.algorithms.reward_loss import reward_loss
from srpo_ray.algorithms.rollout import Rollout
from srpo_ray.algorithms.window import Window, build_window
from srpo_ray.config.algorithms.srpo import Branch, SRPOConfig
from srpo_ray.flow import SigmaGrid


@dataclass(frozen=True)
class Steps:
    """Start and end of each sample's gradient step, and the strength of its query."""

    start: Tensor
    """Sigma before the step, `[B]`."""
    landing: Tensor
    """Sigma after it, `[B]`."""
    discount: Tensor
    """Additional weight of the branch's own text, `[B]`."""


def branch_steps(branch: Branch, draws: list[int], window: Window, discount: tuple[float, float] | None) -> Steps:
    """Compute start, landing and discount of every sample.

    Args:
        branch: Direction of the step.
        draws: Landing point of each sample, counted from the clean end, in [MARGIN, N - MARGIN].
        window: Window with N sigmas, and the length of a step.
        discount: Discount at the clean and at the noisy end of the window; None is 0 everywhere.

    Source: SRPO's released settings. Near the ends the stride is clipped, and an inversion that would start beyond the
    clean end starts, and lands, one point earlier.
    """
    sigmas, count = window.sigmas, len(window)
    strengths = torch.linspace(*(discount or (0.0, 0.0)), count, dtype=torch.float64)
    starts, landings, indices = [], [], []
    for draw in draws:
        stride = window.stride_at(draw)
        if branch == "denoise":
            starts.append(count - draw - stride)
            landings.append(count - draw)
            indices.append(draw)
        else:
            index = max(draw - stride, 1)
            starts.append(count - index)
            landings.append(count - index - stride)
            indices.append(index)
    return Steps(sigmas[starts].float(), sigmas[landings].float(), strengths[indices].float())


class SRPO(Algorithm[SRPOConfig]):
    """SRPO, or Direct-Align with a plain reward if `query` is `plain`."""

    @classmethod
    def check_grid(cls, config: SRPOConfig, grid: SigmaGrid) -> None:
        """Check that a step fits in the window."""
        build_window(config, grid)

    @property
    def window(self) -> Window:
        """Window of the landing sigmas, at the present size of the images."""
        return build_window(self.config, self.grid)

    def collect(self, batch: Batch) -> Rollout:
        """Collect the clean tokens of the batch without gradient, and their noise."""
        return collect_rollout(self, batch, self.config.noise)

    def reached(self, collected: Rollout) -> tuple[Tensor, Tensor]:
        """Return the clean tokens."""
        return collected.clean, collected.clean.new_zeros(len(collected.clean))

    def losses(self, batch: Batch, collected: Rollout, part: int = 0) -> Iterator[Loss]:
        """Yield one loss per landing point and branch."""
        for renoising in range(self.config.renoisings):
            draws = self.window.draw(self.config.landing, batch.draws, renoising)
            for branch in self.config.branches:
                yield self._branch_loss(branch, batch, collected, draws)

    def _branch_loss(self, branch: Branch, batch: Batch, rollout: Rollout, draws: list[int]) -> Loss:
        config = self.config
        discount = config.denoise_discount if branch == "denoise" else config.inversion_discount
        steps = branch_steps(branch, draws, self.window, discount)
        images = direct_align(
            self.policy, rollout, batch.conditioning, steps.start, steps.landing, config.guidance_scale
        )
        metrics = {
            f"step/gradient_scale/{branch}": gradient_scale(steps.start, steps.landing),
            f"step/landing_sigma/{branch}": steps.landing,
        }
        share = 1 / (len(config.branches) * config.renoisings)
        queries = self.queries(batch, "positive" if branch == "denoise" else "negative", steps.discount.tolist())
        return reward_loss(self.rewards, images, queries, branch, metrics=metrics, share=share, hinge=config.hinge)

"""Semantic Relative Preference Optimization (arXiv 2509.06942).

SRPO is Direct-Align with control words: an image is scored against the *difference* of two texts, so that the reward
model's bias cancels. An update has two branches with the same landing sigma. `denoise` steps towards data and is
rewarded for the positive word. `inversion` steps towards noise and is rewarded for the negative word; by its direction
it is a regulariser. Words change only the reward's text; the model's prompt is always plain.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Algorithm, Batch, Loss
from srpo_ray.algorithms.direct_align import Rollout, collect_rollout, direct_align, gradient_scale
from srpo_ray.algorithms.reward_loss import plain_queries, reward_loss
from srpo_ray.algorithms.window import Window, build_window
from srpo_ray.config.algorithms.srpo import Branch, SRPOConfig
from srpo_ray.flow import SigmaGrid
from srpo_ray.rewards.query import TextQuery


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


def relative_query(branch: Branch, prompt: str, positive: str, negative: str, discount: float) -> TextQuery:
    """Build the relative query of one sample: `(1 + discount) * own text - other text`.

    The own text is the positive one for `denoise` and the negative one for `inversion`.
    """
    own, other = _own_and_other(branch, prompt, positive, negative)
    return TextQuery(((1 + discount, own), (-1.0, other)))


def guided_query(branch: Branch, prompt: str, positive: str, negative: str, guidance: float) -> TextQuery:
    """Build the guided query of one sample, with weights of sum 1: `guidance * own + (1 - guidance) * other`."""
    own, other = _own_and_other(branch, prompt, positive, negative)
    return TextQuery(((guidance, own), (1 - guidance, other)))


def _own_and_other(branch: Branch, prompt: str, positive: str, negative: str) -> tuple[str, str]:
    own, other = (positive, negative) if branch == "denoise" else (negative, positive)
    return f"{own}. {prompt}", f"{other}. {prompt}"


class SRPO(Algorithm[SRPOConfig]):
    """SRPO, or Direct-Align with a plain reward if `query` is `plain`."""

    @classmethod
    def check_grid(cls, config: SRPOConfig, grid: SigmaGrid) -> None:
        """Check that a step fits in the window."""
        build_window(config, grid)

    @cached_property
    def window(self) -> Window:
        """Window of the landing sigmas."""
        return build_window(self.config, self.grid)

    def collect(self, batch: Batch) -> Rollout:
        """Collect the clean tokens of the batch without gradient, and their noise."""
        return collect_rollout(self.policy, batch, self.sigmas, self.rollout.guidance_scale, self.config.noise)

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
        queries = self._queries(branch, batch, steps)
        return reward_loss(self.rewards, images, queries, branch, metrics=metrics, share=share, hinge=config.hinge)

    def _queries(self, branch: Branch, batch: Batch, steps: Steps) -> list[TextQuery]:
        if self.config.query == "plain":
            return plain_queries(batch.prompts)
        samples = zip(batch.draws.samples, batch.prompts, steps.discount.tolist(), strict=True)
        return [self._query(branch, batch.draws.update, *sample) for sample in samples]

    def _query(self, branch: Branch, update: int, sample: int, prompt: str, discount: float) -> TextQuery:
        assert self.words is not None
        turn = self.config.word_start + update + (sample if self.config.word_cycle == "per_sample" else 0)
        positive = self.words.positive[turn % len(self.words.positive)]
        negative = self.words.negative[turn % len(self.words.negative)]
        if self.config.query == "guided":
            return guided_query(branch, prompt, positive, negative, self.config.query_guidance + discount)
        return relative_query(branch, prompt, positive, negative, discount)

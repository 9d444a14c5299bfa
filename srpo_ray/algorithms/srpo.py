"""Semantic Relative Preference Optimization (arXiv 2509.06942).

Direct-Align steered by control words: a picture is scored against the *difference* of two texts, so that the reward
model's own bias cancels. An update has two branches that land on the same sigma: `denoise` steps towards data and is
rewarded for the positive word, `inversion` steps towards noise and is rewarded for the negative one, which by its
direction works as the regulariser. Words change the reward's text only; the model always sees the plain prompt.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo_ray.algorithms.base import Batch, LossOutput, PendingLoss
from srpo_ray.algorithms.direct_align import Rollout, collect_rollout, direct_align, gradient_scale
from srpo_ray.algorithms.window import Window, build_window
from srpo_ray.config.algorithms.control_words import ControlWords
from srpo_ray.config.algorithms.srpo import Branch, SRPOConfig
from srpo_ray.config.model import RolloutConfig
from srpo_ray.flow import SigmaGrid, numeric_grid
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.rewards.base import PendingScore, RewardScorer
from srpo_ray.rewards.query import TextQuery


@dataclass(frozen=True)
class Steps:
    """Where each sample's gradient step starts and ends, and how strong its query is."""

    start: Tensor
    """Sigma before the step, `[B]`."""
    landing: Tensor
    """Sigma after it, `[B]`."""
    discount: Tensor
    """Extra weight of the branch's own text, `[B]`."""


def branch_steps(branch: Branch, draws: list[int], window: Window, discount: tuple[float, float] | None) -> Steps:
    """Start, landing and discount of every sample.

    Args:
        branch: Direction of the step.
        draws: Landing point of each sample, counted from the clean end, in [MARGIN, N - MARGIN].
        window: Its N sigmas and the length of a step.
        discount: Discount at the clean and at the noisy end of the window; None is 0 everywhere.

    Source: SRPO's released settings; near the ends the stride is clipped, and an inversion that would start
    beyond the clean end starts, and lands, one point earlier.
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
    """The relative query of one sample: `(1 + discount) * own text - other text`.

    The own text is the positive one for `denoise` and the negative one for `inversion`.
    """
    own, other = _own_and_other(branch, prompt, positive, negative)
    return TextQuery(((1 + discount, own), (-1.0, other)))


def guided_query(branch: Branch, prompt: str, positive: str, negative: str, guidance: float) -> TextQuery:
    """The guided query of one sample, whose weights add up to 1: `guidance * own + (1 - guidance) * other`."""
    own, other = _own_and_other(branch, prompt, positive, negative)
    return TextQuery(((guidance, own), (1 - guidance, other)))


def _own_and_other(branch: Branch, prompt: str, positive: str, negative: str) -> tuple[str, str]:
    own, other = (positive, negative) if branch == "denoise" else (negative, positive)
    return f"{own}. {prompt}", f"{other}. {prompt}"


@dataclass(frozen=True)
class BranchLoss:
    """One branch of one batch: its pictures are decoded and submitted, its score is awaited."""

    branch: Branch
    steps: Steps
    pending: PendingScore
    hinge: float
    share: float
    """This branch's share of the update's loss."""

    def result(self) -> LossOutput:
        """Wait for the scores: `share * mean(relu(hinge - reward))`, and the metrics of the branch.

        Samples that are not `below_hinge` have no gradient.
        """
        scores = self.pending.result()
        losses = torch.relu(self.hinge - scores.total)
        metrics = {f"reward/{name}/{self.branch}": values for name, values in scores.raw.items()}
        metrics[f"reward/total/{self.branch}"] = scores.total.detach()
        metrics[f"loss/{self.branch}"] = losses.detach()
        metrics[f"loss/below_hinge/{self.branch}"] = (losses > 0).float()
        metrics[f"step/gradient_scale/{self.branch}"] = gradient_scale(self.steps.start, self.steps.landing)
        metrics[f"step/landing_sigma/{self.branch}"] = self.steps.landing
        return LossOutput(self.share * losses.mean(), metrics)


class SRPO:
    """SRPO, and plain-reward Direct-Align when `query` is `plain`."""

    def __init__(
        self,
        config: SRPOConfig,
        rollout: RolloutConfig,
        words: ControlWords,
        policy: FlowPolicy,
        rewards: RewardScorer,
        seed: int,
        grid: SigmaGrid = numeric_grid,
    ) -> None:
        """See `PlainAlgorithm`; `words` are the control words that queries take."""
        self.config = config
        self.rollout = rollout
        self.words = words
        self.policy = policy
        self.rewards = rewards
        self.seed = seed
        self.losses_in_flight = len(config.branches)
        self.sigmas = grid(rollout.num_steps, rollout.shift)
        self.window = build_window(config, grid)

    def collect(self, batch: Batch) -> Rollout:
        """Clean tokens of the batch without gradient, and their noise."""
        return collect_rollout(
            self.policy, batch, self.sigmas, self.rollout.guidance_scale, self.config.noise, self.seed
        )

    def losses(self, batch: Batch, collected: Rollout) -> Iterator[PendingLoss]:
        """Yield one pending loss per landing point and branch."""
        for renoising in range(self.config.renoisings):
            draws = self.window.draw(self.config.landing, batch, renoising, self.seed)
            for branch in self.config.branches:
                yield self._branch_loss(branch, batch, collected, draws)

    def _branch_loss(self, branch: Branch, batch: Batch, rollout: Rollout, draws: list[int]) -> BranchLoss:
        config = self.config
        discount = config.denoise_discount if branch == "denoise" else config.inversion_discount
        steps = branch_steps(branch, draws, self.window, discount)
        images = direct_align(
            self.policy, rollout, batch.conditioning, steps.start, steps.landing, config.guidance_scale
        )
        pending = self.rewards.submit(images, self._queries(branch, batch, steps))
        return BranchLoss(branch, steps, pending, config.hinge, share=1 / (len(config.branches) * config.renoisings))

    def _queries(self, branch: Branch, batch: Batch, steps: Steps) -> list[TextQuery]:
        if self.config.query == "plain":
            return [TextQuery.plain(prompt) for prompt in batch.prompts]
        samples = zip(batch.samples, batch.prompts, steps.discount.tolist(), strict=True)
        return [self._query(branch, batch.step, *sample) for sample in samples]

    def _query(self, branch: Branch, step: int, sample: int, prompt: str, discount: float) -> TextQuery:
        turn = self.config.word_start + step + (sample if self.config.word_cycle == "per_sample" else 0)
        positive = self.words.positive[turn % len(self.words.positive)]
        negative = self.words.negative[turn % len(self.words.negative)]
        if self.config.query == "guided":
            return guided_query(branch, prompt, positive, negative, self.config.query_guidance + discount)
        return relative_query(branch, prompt, positive, negative, discount)

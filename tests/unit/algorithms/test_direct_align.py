"""Direct-Align against the formula of its gradient, and against SRPO's plain denoise branch."""

from typing import Any, cast

import pytest
import torch

from srpo_ray.algorithms.direct_align import DirectAlign
from srpo_ray.algorithms.srpo import SRPO
from srpo_ray.config.algorithms.control_words import PAPER_WORDS
from srpo_ray.config.algorithms.direct_align import DirectAlignConfig
from srpo_ray.config.algorithms.srpo import SRPOConfig
from srpo_ray.config.model import RolloutConfig
from srpo_ray.flow import Draws
from tests.helpers.algorithms.stand_ins import (
    AffinePolicy,
    PromptRewards,
    as_policy,
    as_scorer,
    check_gradients,
    make_batch,
)


def gradients(algorithm: Any, policy: AffinePolicy) -> tuple[torch.Tensor, torch.Tensor, float]:
    (loss,) = [loss() for loss in algorithm.losses(make_batch(), algorithm.collect(make_batch()))]
    loss.loss.backward()
    assert policy.offset.grad is not None
    assert policy.slope.grad is not None
    return policy.offset.grad, policy.slope.grad, loss.loss.item()


@pytest.mark.parametrize("strength", [0.9, 0.4])
def test_gradient_is_the_hand_formula(strength: float) -> None:
    policy, rewards = AffinePolicy(), PromptRewards()
    config = DirectAlignConfig(hinge=1e3, interpolation_strength=strength)
    algorithm = DirectAlign(config, RolloutConfig(), as_policy(policy), as_scorer(rewards))
    # Enough samples that a long stride is cut at either end of the window.
    batch = make_batch(8)
    rollout = algorithm.collect(batch)
    (loss,) = [loss() for loss in algorithm.losses(batch, rollout)]
    loss.loss.backward()

    # clean = (x_s + (e - s) v - e noise) / (1 - e), so d clean / d v = (e - s) / (1 - e); sigma from 27/28 to 3/4
    stride = int((1 - strength) * 1000) + 1
    scales, slopes = [], []
    for sample in range(8):
        (draw,) = Draws(7, 1, (sample,)).integers("landing", 5, 995, 0)
        clipped = min(stride, draw, 1000 - draw)
        start, landing = (27 / 28 + (1000 - i) * (0.75 - 27 / 28) / 999 for i in (draw + clipped, draw))
        scales.append((landing - start) / (1 - landing))
        slopes.append(scales[-1] * ((1 - start) * rollout.clean[sample] + start * rollout.noise[sample]))
    numbers = torch.arange(1, 9, dtype=torch.float64)
    weighted = (numbers * torch.tensor(scales, dtype=torch.float64)).mean() / numbers.mean()
    # Sigmas are float32, and their difference over a short stride has fewer digits.
    check_gradients(policy, [(1.0, weighted.item(), torch.stack(slopes))], rtol=1e-5)
    assert policy.calls[-1][2] == 3.5


def test_it_is_srpos_denoise_branch_with_a_plain_query() -> None:
    ours, theirs = AffinePolicy(), AffinePolicy()
    config = DirectAlignConfig(hinge=1e3)
    found = gradients(DirectAlign(config, RolloutConfig(), as_policy(ours), as_scorer(PromptRewards())), ours)
    srpo = SRPOConfig(query="plain", branches=("denoise",), hinge=1e3)
    rewards = cast(Any, PromptRewards())
    expected = gradients(SRPO(srpo, RolloutConfig(), as_policy(theirs), rewards, words=PAPER_WORDS), theirs)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_rewards_above_the_hinge_teach_nothing() -> None:
    policy = AffinePolicy()
    config = DirectAlignConfig(hinge=-1e3)
    algorithm = DirectAlign(config, RolloutConfig(), as_policy(policy), as_scorer(PromptRewards()))
    by_offset, by_slope, loss = gradients(algorithm, policy)
    assert (by_offset.abs().max().item(), by_slope.item(), loss) == (0.0, 0.0, 0.0)

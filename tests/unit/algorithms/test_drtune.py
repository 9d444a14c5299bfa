"""DRTune against the sum of its trained steps by hand, and the draws of its steps."""

from typing import Any

import pytest
import torch

from srpo_ray.algorithms.drtune import DRTune
from srpo_ray.config.algorithms.drtune import DRTuneConfig
from srpo_ray.config.model import RolloutConfig
from tests.helpers.algorithms.stand_ins import (
    AffinePolicy,
    PromptRewards,
    as_policy,
    as_scorer,
    chain_by_hand,
    check_gradients,
    drawn_noise,
    grid,
    make_batch,
    points_by_hand,
    trained_steps,
)


def make(policy: AffinePolicy, num_steps: int = 25, **config: Any) -> DRTune:
    rollout = RolloutConfig(num_steps=num_steps, guidance_scale=2.0)
    return DRTune(DRTuneConfig(hinge=1e3, **config), rollout, as_policy(policy), as_scorer(PromptRewards()))


@pytest.mark.parametrize("update", range(6))
def test_gradient_is_the_sum_of_the_trained_steps_without_a_chain(update: int) -> None:
    policy = AffinePolicy()
    algorithm, batch = make(policy, train_steps=3), make_batch(update=update)
    (loss,) = [loss() for loss in algorithm.losses(batch, algorithm.collect(batch))]
    loss.loss.backward()

    stop = sum(not gradient for gradient, _, _ in policy.calls) - 1
    sigmas = [*grid(25)[: stop + 1], 0.0]
    points = points_by_hand(policy, drawn_noise(3, "rollout", update=update), sigmas)
    by_offset, by_slope = 0.0, torch.zeros_like(points[0])
    for steps in trained_steps(policy, 25):
        (step,) = set(steps)
        move = sigmas[step + 1] - sigmas[step]
        by_offset, by_slope = by_offset + move, by_slope + move * points[step]
    check_gradients(policy, [(1.0, by_offset, by_slope)])
    clean, _, _ = chain_by_hand(policy, points[0], sigmas)
    rewards = torch.tensor([1.0, 2.0, 3.0]) * clean.mean(dim=(1, 2))
    torch.testing.assert_close(loss.metrics["reward/total/predicted"], rewards)
    torch.testing.assert_close(loss.metrics["step/sigma/predicted"], torch.full((3,), sigmas[stop]).double())
    assert {guidance for _, _, guidance in policy.calls} == {2.0}


def test_trained_steps_are_evenly_spaced_and_none_is_after_the_stop() -> None:
    seen = set()
    for update in range(300):
        policy = AffinePolicy()
        algorithm, batch = make(policy), make_batch(1, update)
        list(algorithm.losses(batch, algorithm.collect(batch)))
        stop = len(policy.calls) - len(trained := [step for (step,) in trained_steps(policy, 25)]) - 1
        assert 14 <= stop <= 24
        assert trained[0] <= 12
        assert trained in ([trained[0]], [trained[0], trained[0] + 12])
        assert (len(trained) == 2) == (trained[0] + 12 <= stop)
        seen |= {*trained}
    # All steps of the first half are trained, and all of the second, up to the last one.
    assert seen == set(range(25))


@pytest.mark.parametrize(
    ("num_steps", "config", "message"),
    [
        (4, {"train_steps": 5}, r"train_steps of at most rollout.num_steps = 4, got 5; lower"),
        (25, {"train_steps": 1}, r"a trained step before every stop, got train_steps=1 .*raise train_steps or lower"),
        (25, {"late_share": 0.8}, r"stop in the last 20 of rollout.num_steps = 25 steps \(late_share=0.8\)"),
    ],
)
def test_settings_without_a_trained_step_are_refused(num_steps: int, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DRTuneConfig(**config).check_rollout(num_steps)

"""DanceGRPO against the gradient of a normal log-density by hand, and its PPO loss case by case."""

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from srpo_ray.algorithms.base import LossOutput
from srpo_ray.algorithms.dance_grpo import DanceGRPO, Trajectories, group_advantages, policy_loss
from srpo_ray.config.algorithms.dance_grpo import DanceGRPOConfig
from srpo_ray.config.model import RolloutConfig
from srpo_ray.flow import Draws
from srpo_ray.rewards.base import Scores
from tests.algorithms.stand_ins import (
    ELEMENTS,
    SHAPE,
    AffinePolicy,
    PromptRewards,
    as_policy,
    as_scorer,
    drawn_noise,
    grid,
    make_batch,
)

CONFIG = DanceGRPOConfig(group_size=4)
STEPS = 8


def make(policy: AffinePolicy, rewards: PromptRewards | None = None) -> DanceGRPO:
    rollout = RolloutConfig(num_steps=STEPS, guidance_scale=2.0)
    return DanceGRPO(CONFIG, rollout, as_policy(policy), as_scorer(rewards or PromptRewards()))


def run(policy: AffinePolicy, rewards: PromptRewards) -> tuple[Trajectories, list[LossOutput]]:
    algorithm = make(policy, rewards)
    walks = algorithm.collect(make_batch())
    return walks, [loss() for loss in algorithm.losses(make_batch(), walks)]


def test_gradient_is_advantage_times_the_gradient_of_the_log_density() -> None:
    policy, rewards = AffinePolicy(), PromptRewards()
    walks, outputs = run(policy, rewards)
    trained = policy.sigmas[STEPS:]
    torch.stack([output.loss for output in outputs]).sum().backward()

    advantages = torch.cat([(g - g.mean()) / g.std() for g in walks.pending.result().total.split(4)])
    expected = torch.zeros(SHAPE, dtype=torch.float64)
    for sigmas in trained:
        for row, sigma in enumerate(sigmas.tolist()):
            index = index_of(sigma)
            here, move = grid(STEPS)[index], grid(STEPS)[index + 1] - grid(STEPS)[index]
            x = walks.points[index, row]
            velocity = policy.slope.detach() * x + policy.offset.detach()
            # score = -(x + (1 - sigma) v) / sigma, and so d mean / d v = move * (1 + eta^2 / 2 * (1 - sigma) / sigma)
            score = -(x + (1 - here) * velocity) / here
            mean = x + move * velocity - 0.5 * 0.3**2 * score * move
            slope = move * (1 + 0.5 * 0.3**2 * (1 - here) / here)
            residual = (walks.points[index + 1, row] - mean) / (0.3**2 * -move)
            expected -= advantages[row] * residual * slope / ELEMENTS / len(sigmas) / len(trained)
    torch.testing.assert_close(policy.offset.grad, expected, rtol=1e-6, atol=1e-12)


def index_of(sigma: float) -> int:
    """The step that starts at a sigma."""
    return min(range(STEPS), key=lambda index: abs(grid(STEPS)[index] - sigma))


def test_every_sample_trains_steps_of_its_own_each_once_and_never_the_last() -> None:
    policy = AffinePolicy()
    _, outputs = run(policy, PromptRewards())
    trained = torch.stack(policy.sigmas[STEPS:]).T
    steps = [[index_of(sigma) for sigma in row] for row in trained.tolist()]
    assert len(outputs) == len(steps[0]) == 4
    assert all(len(set(row)) == 4 and max(row) <= STEPS - 2 for row in steps)
    assert len({tuple(row) for row in steps}) > 8
    assert [gradient for gradient, _, _ in policy.calls] == [False] * STEPS + [True] * 4
    assert {guidance for _, _, guidance in policy.calls} == {2.0}


def test_steps_are_trained_all_as_often() -> None:
    policy = AffinePolicy()
    algorithm = make(policy)
    trained: list[int] = []
    for step in range(100):
        walks = algorithm.collect(make_batch(update=step))
        policy.sigmas.clear()
        list(algorithm.losses(make_batch(update=step), walks))
        trained += [index_of(sigma) for sigmas in policy.sigmas for sigma in sigmas.tolist()]
    # 100 updates of 12 samples train 4 of 7 steps each: every step 686 times, with a deviation of 17.
    counts = Counter(trained)
    assert set(counts) == set(range(STEPS - 1))
    assert all(abs(count - 1200 * 4 / 7) < 5 * 17.2 for count in counts.values())


@pytest.mark.parametrize(("num_steps", "trained"), [(2, 1), (3, 1), (12, 6), (16, 9), (25, 14), (50, 29)])
def test_six_tenths_of_the_random_steps_are_trained(num_steps: int, trained: int) -> None:
    # All but the last step are random; the release rounds down.
    assert DanceGRPOConfig().trained_steps(num_steps) == trained == max(1, 6 * (num_steps - 1) // 10)
    assert DanceGRPOConfig(step_share=1.0).trained_steps(num_steps) == num_steps - 1


def test_steps_and_walks_are_the_samples_whatever_worker_has_it() -> None:
    whole, parts = AffinePolicy(), [AffinePolicy(), AffinePolicy()]
    walks, _ = run(whole, PromptRewards())
    for policy, samples in zip(parts, [(0, 1), (2,)], strict=True):
        batch = replace(make_batch(len(samples)), draws=Draws(7, 1, samples, worker=samples[0]))
        algorithm = make(policy)
        found = algorithm.collect(batch)
        list(algorithm.losses(batch, found))
        first, last = 4 * samples[0], 4 * (samples[-1] + 1)
        torch.testing.assert_close(found.points, walks.points[:, first:last], rtol=0, atol=0)
        for sigmas, expected in zip(policy.sigmas, whole.sigmas, strict=True):
            torch.testing.assert_close(sigmas, expected[first:last], rtol=0, atol=0)


def test_group_has_one_starting_noise_and_walks_of_its_own() -> None:
    rewards = PromptRewards()
    walks, _ = run(AffinePolicy(), rewards)
    noise = drawn_noise(3, "rollout")
    assert torch.equal(walks.points[0], noise.repeat_interleave(4, dim=0))
    assert len({point.sum().item() for point in walks.points[-1]}) == 12
    images, queries = rewards.submitted[0]
    assert not images.requires_grad
    assert [query.texts[0] for query in queries] == [f"prompt {index}" for index in range(3) for _ in range(4)]


def test_random_steps_have_the_spread_of_the_sde_and_the_stated_density() -> None:
    walks, _ = run(AffinePolicy(), PromptRewards())
    residuals = []
    for index in range(STEPS - 1):
        std = 0.3 * math.sqrt(grid(STEPS)[index] - grid(STEPS)[index + 1])
        x = walks.points[index]
        velocity = 0.3 * x + torch.linspace(-1, 1, ELEMENTS, dtype=torch.float64).reshape(SHAPE)
        here, move = grid(STEPS)[index], grid(STEPS)[index + 1] - grid(STEPS)[index]
        mean = x + move * velocity + 0.5 * 0.3**2 * (x + (1 - here) * velocity) / here * move
        expected = torch.distributions.Normal(mean, std).log_prob(walks.points[index + 1]).mean(dim=(1, 2))
        torch.testing.assert_close(walks.log_densities[index], expected, rtol=1e-9, atol=1e-9)
        residuals.append((walks.points[index + 1] - mean) / std)
    assert torch.stack(residuals).std().item() == pytest.approx(1, abs=0.15)


def test_advantages_are_deviations_within_the_group_clamped() -> None:
    rewards = torch.tensor([1.0, 2.0, 3.0, 7.0, 7.0, 7.0], dtype=torch.float64)
    found = group_advantages(rewards, 3, 5.0)
    torch.testing.assert_close(found, torch.tensor([-1.0, 0, 1, 0, 0, 0], dtype=torch.float64), rtol=1e-6, atol=1e-6)
    one_outlier = torch.tensor([0.0] * 99 + [1.0], dtype=torch.float64)
    assert group_advantages(one_outlier, 100, 5.0)[-1].item() == 5.0


@pytest.mark.parametrize(
    ("log_ratio", "expected", "has_gradient"),
    # Advantages of the two samples are -0.7071 and +0.7071; the ratio is the second's, the first one's is 1.
    [(0.0, 0.0, True), (0.5, 0.35355 * (1 - 1.0001), False), (-0.5, 0.35355 * (1 - math.exp(-0.5)), True)],
)
def test_ratio_is_clipped_where_it_would_gain(log_ratio: float, expected: float, has_gradient: bool) -> None:
    total = torch.tensor([0.0, 1.0], dtype=torch.float64)
    pending: Any = SimpleNamespace(result=lambda: Scores(total, {}))
    now = torch.tensor([0.0, log_ratio], dtype=torch.float64, requires_grad=True)
    config = DanceGRPOConfig(group_size=2)
    output = policy_loss(now, torch.zeros(2, dtype=torch.float64), pending, config, share=1.0)
    assert output.loss.item() == pytest.approx(expected, abs=1e-5)
    output.loss.backward()
    assert now.grad is not None
    assert bool(now.grad[1] != 0) == has_gradient
    assert output.metrics["ratio/clip_fraction"].tolist() == [0.0, float(log_ratio != 0)]

"""DanceGRPO against the gradient of a normal log-density by hand, and its PPO loss case by case."""

import math
from collections import Counter

import pytest
import torch

from srpo_ray.algorithms.base import LossOutput
from srpo_ray.algorithms.moves import Moves
from srpo_ray.algorithms.policy_gradient import PolicyGradient
from srpo_ray.algorithms.surrogates import ppo_losses
from srpo_ray.config.algorithms.dance_grpo import DanceGRPOConfig
from srpo_ray.config.model import RolloutConfig
from tests.helpers.algorithms.stand_ins import (
    ELEMENTS,
    SHAPE,
    AffinePolicy,
    PromptRewards,
    as_policy,
    as_scorer,
    collect_all,
    drawn_noise,
    grid,
    make_batch,
    settle_on_workers,
)

CONFIG = DanceGRPOConfig(group_size=4)
STEPS = 8


def make(policy: AffinePolicy, rewards: PromptRewards | None = None) -> PolicyGradient:
    rollout = RolloutConfig(num_steps=STEPS, guidance_scale=2.0)
    return PolicyGradient(CONFIG, rollout, as_policy(policy), as_scorer(rewards or PromptRewards()))


BATCH = make_batch(children=range(4))


def run(policy: AffinePolicy, rewards: PromptRewards) -> tuple[Moves, list[LossOutput]]:
    algorithm = make(policy, rewards)
    (walks,) = collect_all(algorithm, [BATCH])
    return walks, [loss() for loss in algorithm.losses(BATCH, walks)]


def points(walks: Moves) -> torch.Tensor:
    """Tokens before each random step and after the last one."""
    return torch.stack([walks.moves[0].before, *(move.after for move in walks.moves)])


def test_gradient_is_advantage_times_the_gradient_of_the_log_density() -> None:
    policy, rewards = AffinePolicy(), PromptRewards()
    walks, outputs = run(policy, rewards)
    trained = policy.sigmas[STEPS:]
    torch.stack([output.loss for output in outputs]).sum().backward()

    advantages = torch.cat([(g - g.mean()) / g.std() for g in walks.scores[0][0].result().total.split(4)])
    expected = torch.zeros(SHAPE, dtype=torch.float64)
    for sigmas in trained:
        for row, sigma in enumerate(sigmas.tolist()):
            index = index_of(sigma)
            here, move = grid(STEPS)[index], grid(STEPS)[index + 1] - grid(STEPS)[index]
            x = points(walks)[index, row]
            velocity = policy.slope.detach() * x + policy.offset.detach()
            # score = -(x + (1 - sigma) v) / sigma, and so d mean / d v = move * (1 + eta^2 / 2 * (1 - sigma) / sigma)
            score = -(x + (1 - here) * velocity) / here
            mean = x + move * velocity - 0.5 * 0.3**2 * score * move
            slope = move * (1 + 0.5 * 0.3**2 * (1 - here) / here)
            residual = (points(walks)[index + 1, row] - mean) / (0.3**2 * -move)
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
        batch = make_batch(update=step, children=range(4))
        walks = algorithm.collect(batch)
        policy.sigmas.clear()
        list(algorithm.losses(batch, walks))
        trained += [index_of(sigma) for sigmas in policy.sigmas for sigma in sigmas.tolist()]
    # 100 updates of 12 samples train 4 of 7 steps each: every step 686 times, with a deviation of 17.
    counts = Counter(trained)
    assert set(counts) == set(range(STEPS - 1))
    assert all(abs(count - 1200 * 4 / 7) < 5 * 17.2 for count in counts.values())


@pytest.mark.parametrize(("num_steps", "trained"), [(2, 1), (3, 1), (12, 6), (16, 9), (25, 14), (50, 29)])
def test_six_tenths_of_the_random_steps_are_trained(num_steps: int, trained: int) -> None:
    # All but the last step are random; the release rounds down.
    assert DanceGRPOConfig().parts.plan.trained(num_steps) == trained == max(1, 6 * (num_steps - 1) // 10)
    assert DanceGRPOConfig(step_share=1.0).parts.plan.trained(num_steps) == num_steps - 1


def test_steps_and_walks_are_the_samples_whatever_worker_has_it() -> None:
    whole, parts = AffinePolicy(), [AffinePolicy(), AffinePolicy()]
    walks, _ = run(whole, PromptRewards())
    for policy, samples in zip(parts, [(0, 1), (2,)], strict=True):
        batch = make_batch(samples=samples, children=range(4))
        algorithm = make(policy)
        found = algorithm.collect(batch)
        list(algorithm.losses(batch, found))
        first, last = 4 * samples[0], 4 * (samples[-1] + 1)
        torch.testing.assert_close(points(found), points(walks)[:, first:last], rtol=0, atol=0)
        for sigmas, expected in zip(policy.sigmas, whole.sigmas, strict=True):
            torch.testing.assert_close(sigmas, expected[first:last], rtol=0, atol=0)


def test_group_has_one_starting_noise_and_walks_of_its_own() -> None:
    rewards = PromptRewards()
    walks, _ = run(AffinePolicy(), rewards)
    noise = drawn_noise(3, "rollout")
    assert torch.equal(points(walks)[0], noise.repeat_interleave(4, dim=0))
    assert len({point.sum().item() for point in points(walks)[-1]}) == 12
    images, queries = rewards.submitted[0]
    assert not images.requires_grad
    assert [query.texts[0] for query in queries] == [f"prompt {index}" for index in range(3) for _ in range(4)]


def test_random_steps_have_the_spread_of_the_sde_and_the_stated_density() -> None:
    walks, _ = run(AffinePolicy(), PromptRewards())
    residuals = []
    for index in range(STEPS - 1):
        std = 0.3 * math.sqrt(grid(STEPS)[index] - grid(STEPS)[index + 1])
        x = points(walks)[index]
        velocity = 0.3 * x + torch.linspace(-1, 1, ELEMENTS, dtype=torch.float64).reshape(SHAPE)
        here, move = grid(STEPS)[index], grid(STEPS)[index + 1] - grid(STEPS)[index]
        mean = x + move * velocity + 0.5 * 0.3**2 * (x + (1 - here) * velocity) / here * move
        expected = torch.distributions.Normal(mean, std).log_prob(points(walks)[index + 1]).mean(dim=(1, 2))
        torch.testing.assert_close(walks.moves[index].log_density, expected, rtol=1e-9, atol=1e-9)
        residuals.append((points(walks)[index + 1] - mean) / std)
    assert torch.stack(residuals).std().item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("images", [1, 2])
def test_group_divided_among_passes_and_workers_has_the_gradient_of_a_whole_one(images: int) -> None:
    whole = AffinePolicy()
    _, outputs = run(whole, PromptRewards())
    torch.stack([output.loss for output in outputs]).sum().backward()
    divided = AffinePolicy()
    algorithm = make(divided, PromptRewards())
    parts = [range(start, start + images) for start in range(0, 4, images)]
    rounds = [
        (batch, algorithm.collect(batch))
        for batch in (make_batch(samples=[sample], children=part) for sample in range(3) for part in parts)
    ]
    # The second worker has one micro-batch of the first once more, as where they do not go into the workers.
    workers = [rounds[0::2], [*rounds[1::2], rounds[0]]]
    first, second = settle_on_workers(algorithm, workers)
    assert all(map(torch.equal, second[-1].advantages, first[0].advantages))
    for (batch, _), walks in zip(rounds[0::2] + rounds[1::2], first + second[:-1], strict=True):
        for loss in algorithm.losses(batch, walks):
            (loss().loss / len(rounds)).backward()
    for found, expected in ((divided.offset.grad, whole.offset.grad), (divided.slope.grad, whole.slope.grad)):
        assert found is not None
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("log_ratio", "expected", "has_gradient"),
    # Advantages of the two samples are -0.7071 and +0.7071; the ratio is the second's, the first one's is 1.
    [(0.0, 0.0, True), (0.5, 0.35355 * (1 - 1.0001), False), (-0.5, 0.35355 * (1 - math.exp(-0.5)), True)],
)
def test_ratio_is_clipped_where_it_would_gain(log_ratio: float, expected: float, has_gradient: bool) -> None:
    now = torch.tensor([0.0, log_ratio], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([-(0.5**0.5), 0.5**0.5], dtype=torch.float64)
    losses, clipped = ppo_losses(torch.exp(now), advantages, 1e-4)
    assert losses.mean().item() == pytest.approx(expected, abs=1e-5)
    losses.mean().backward()
    assert now.grad is not None
    assert bool(now.grad[1] != 0) == has_gradient
    assert clipped.tolist() == [0.0, float(log_ratio != 0)]

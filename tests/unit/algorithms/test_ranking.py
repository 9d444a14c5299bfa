"""Rankings of trajectories: the Plackett-Luce model by hand, and the gradient of an update against plain autograd."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms.moves import Moves
from srpo_ray.algorithms.policy_gradient import PolicyGradient
from srpo_ray.algorithms.ranking import discount_weights, ranking_losses
from srpo_ray.config.algorithms.policy_gradient import PolicyGradientConfig
from srpo_ray.config.model import RolloutConfig
from srpo_ray.config.size import ImageSize
from srpo_ray.flow import log_density, sde_step
from tests.helpers.algorithms.stand_ins import AffinePolicy, PromptRewards, as_policy, as_scorer, grid, make_batch

GROUP, STEPS, ETA, BETA, DISCOUNT = 3, 5, 0.3, 10.0, 0.8
BATCH = make_batch(children=range(GROUP))


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def likelihood(scores: list[float], order: tuple[int, ...]) -> float:
    """Probability that images are drawn in an order, each with a chance proportional to exp(score) of those left."""
    chance, left = 1.0, list(order)
    for image in order:
        chance *= math.exp(scores[image]) / sum(math.exp(scores[other]) for other in left)
        left.remove(image)
    return chance


def test_loss_is_the_likelihood_of_drawing_the_images_in_their_order() -> None:
    scores, orders = draw(4, seed=0), list(permutations(range(4)))
    values = torch.tensor([[float(-order.index(image)) for image in range(4)] for order in orders]).double()
    losses, _ = ranking_losses(scores.expand(len(orders), 4), values)
    expected = [-math.log(likelihood(scores.tolist(), order)) for order in orders]
    assert losses.tolist() == pytest.approx(expected, rel=1e-10)
    assert losses.neg().exp().sum().item() == pytest.approx(1)


def test_ranking_of_two_is_the_logistic_preference() -> None:
    scores = torch.tensor([[0.3, -1.1], [0.3, -1.1]]).double()
    losses, slopes = ranking_losses(scores, torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double())
    expected = -torch.nn.functional.logsigmoid(torch.tensor([1.4, -1.4]).double())
    torch.testing.assert_close(losses, expected)
    chance = 1 / (1 + math.exp(1.4))
    assert slopes.flatten().tolist() == pytest.approx([chance, -chance, -(1 - chance), 1 - chance])


def test_published_clip_keeps_the_weight_of_every_preference_at_one_half() -> None:
    # Log-ratios within 1e-4, times 10: the scores of two images differ by at most 0.002.
    bound = BETA * math.log(1 + 1e-4)
    scores = torch.tensor([[bound, -bound], [-bound, bound], [0.0, 0.0]]).double()
    _, slopes = ranking_losses(scores, torch.tensor([[2.0, 1.0]]).double().expand(3, 2))
    assert (slopes.abs() - 0.5).abs().max() <= 0.0005
    assert slopes.sign().tolist() == [[1.0, -1.0]] * 3


def test_slopes_are_the_derivatives_and_equal_values_are_not_ranked() -> None:
    scores = draw(2, 4, seed=1).requires_grad_()
    values = torch.tensor([[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0]]).double()
    losses, slopes = ranking_losses(scores, values)
    (derivatives,) = torch.autograd.grad(losses.sum(), scores)
    torch.testing.assert_close(slopes, -derivatives)
    assert slopes.sum(dim=1).abs().max() < 1e-12
    _, equal = ranking_losses(torch.zeros(2, 4).double(), values)
    assert equal[1].tolist() == pytest.approx([0.0] * 4, abs=1e-12)
    assert equal[0, 1] == pytest.approx(equal[0, 2].item())


def test_steps_are_discounted_from_the_noisy_end_with_a_mean_of_one() -> None:
    found = discount_weights(torch.tensor([[0, 400], [1, 402]]), 0.5)
    assert found.tolist() == [
        [pytest.approx(4 / 3), pytest.approx(8 / 5)],
        [pytest.approx(2 / 3), pytest.approx(2 / 5)],
    ]
    assert discount_weights(torch.arange(3)[:, None], 1.0).flatten().tolist() == [1.0, 1.0, 1.0]
    first = discount_weights(torch.arange(3)[:, None], 1e-9).flatten()
    assert first.tolist() == pytest.approx([3.0, 0.0, 0.0], abs=1e-8)


def collected(policy: AffinePolicy, settings: dict[str, Any]) -> tuple[PolicyGradient, Moves]:
    """A settled micro-batch of a policy that has moved away from the initial model."""
    surrogate = {"type": "ranking", "beta": BETA, "discount": DISCOUNT, **settings.pop("surrogate", {})}
    config = PolicyGradientConfig.model_validate({"group_size": GROUP, "surrogate": surrogate, **settings})
    config.check_rollout(STEPS)
    rollout = RolloutConfig(num_steps=STEPS)
    algorithm = PolicyGradient(config, rollout, as_policy(policy), as_scorer(PromptRewards()))
    assert [phase.role for phase in algorithm.phases] == ["policy", "reference"]
    moves: Any = None
    slope = policy.slope.detach().clone()
    for phase in algorithm.phases:
        policy.slope.data = slope if phase.role == "policy" else 0.7 * slope
        with torch.no_grad():
            moves = phase.run(BATCH, moves)
    policy.slope.data = slope
    (settled,) = algorithm.settle([(BATCH, moves)], lambda value: [value])
    return algorithm, settled


def direct_loss(policy: AffinePolicy, moves: Moves, steps: list[list[int]], clip: float) -> Tensor:
    """The likelihood of the ranking with all steps in one graph; `steps` has the trained ones of each image."""
    sigmas = torch.tensor(grid(STEPS), dtype=torch.float64)
    low, high = math.log(max(1 - clip, 1e-12)), math.log(1 + clip)
    scores = []
    for image, mine in enumerate(steps):
        score, total = torch.zeros((), dtype=torch.float64), sum(DISCOUNT**step for step in mine)
        for step in mine:
            move = moves.moves[step]
            before, after = move.before[image : image + 1], move.after[image : image + 1]
            here, there = sigmas[step : step + 1], sigmas[step + 1 : step + 2]
            densities = []
            for factor in (1.0, 0.7):
                velocity = factor * policy.slope * before + policy.offset
                mean, std = sde_step(before, velocity, here, there, ETA * torch.ones_like(here))
                densities.append(log_density(after, mean, std)[0])
            ratio = densities[0] - densities[1].detach()
            score = score + DISCOUNT**step / total * ratio.clamp(low, high)
        scores.append(BETA * score)
    rewards = moves.scores[0][0].result().total.reshape(-1, GROUP)
    losses = []
    for group, values in zip(torch.stack(scores).reshape(-1, GROUP), rewards, strict=True):
        order = values.argsort(descending=True)
        ranked = group[order]
        losses.append(sum(torch.logsumexp(ranked[place:], 0) - ranked[place] for place in range(GROUP)))
    return torch.stack([torch.as_tensor(loss) for loss in losses]).mean() / GROUP


@pytest.mark.parametrize("clip", [1e6, 2e-2])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_gradient_of_the_steps_is_that_of_the_whole_ranking(share: float, clip: float) -> None:
    policy = AffinePolicy()
    settings = {"plan": {"type": "all", "share": share}, "surrogate": {"clip_range": clip}, "noise": "per_image"}
    algorithm, moves = collected(policy, settings)
    outputs = [loss() for loss in algorithm.losses(BATCH, moves)]
    torch.stack([each.loss for each in outputs]).sum().backward()
    assert policy.slope.grad is not None
    found, policy.slope.grad = policy.slope.grad.clone(), None

    steps = [each.steps.tolist() for each in algorithm._trained(BATCH, moves)]
    expected = direct_loss(policy, moves, [list(mine) for mine in zip(*steps, strict=True)], clip)
    expected.backward()
    assert policy.slope.grad is not None
    assert policy.slope.grad.abs() > 1e-6
    torch.testing.assert_close(found, policy.slope.grad, rtol=1e-6, atol=1e-12)
    assert outputs[0].metrics["loss/ranking"].mean().item() == pytest.approx(expected.item(), rel=1e-6)
    clipped = torch.cat([each.metrics["ratio/clip_fraction"] for each in outputs]).mean().item()
    assert clipped == 0 if clip > 1 else 0 < clipped < 1


def test_window_after_a_common_noise_ranks_the_images_of_each_prompt() -> None:
    policy = AffinePolicy()
    plan = {"type": "window", "size": 2, "steps": (1, 4)}
    algorithm, moves = collected(policy, {"plan": plan, "surrogate": {"clip_range": 1e6}})
    assert [weight.shape for weight in moves.weights] == [(9,), (9,)]
    torch.stack([loss().loss for loss in algorithm.losses(BATCH, moves)]).sum().backward()
    rewards = moves.scores[0][0].result().total.reshape(3, GROUP)
    slopes = moves.advantages[0].reshape(3, GROUP)
    assert torch.equal(rewards.argmax(dim=1), slopes.argmax(dim=1))
    assert policy.slope.grad is not None
    assert policy.slope.grad != 0


class SizedPolicy(AffinePolicy):
    """A policy whose sigma grid follows the size of its images."""

    size = ImageSize(8, 8)

    @contextmanager
    def at_size(self, size: ImageSize) -> Iterator[None]:
        before, self.size = self.size, size
        yield
        self.size = before

    def grid(self, num_steps: int, shift: Any) -> Tensor:
        return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64) ** (self.size.height / 8)


def test_trajectories_are_ranked_on_the_grid_of_their_size() -> None:
    small, scores = ImageSize(4, 4), []
    for default in (small, ImageSize(8, 8)):
        policy, batch = SizedPolicy(), replace(BATCH, size=small)
        policy.size = default
        surrogate = {"type": "ranking", "beta": BETA, "clip_range": 1e6}
        config = PolicyGradientConfig.model_validate(
            {"group_size": GROUP, "surrogate": surrogate, "plan": {"type": "all", "share": 1.0}, "noise": "per_image"}
        )
        rollout = RolloutConfig(num_steps=STEPS)
        algorithm = PolicyGradient(config, rollout, as_policy(policy), as_scorer(PromptRewards()), policy.grid)
        moves: Any = None
        for factor, phase in zip((1.0, 0.7), algorithm.phases, strict=True):
            policy.slope.data *= factor
            with policy.at_size(small), torch.no_grad():
                moves = phase.run(batch, moves)
        (settled,) = algorithm.settle([(batch, moves)], lambda value: [value])
        scores.append(settled.advantages[0])
    torch.testing.assert_close(scores[1], scores[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    "settings",
    [{"plan": {"type": "branch", "at": (1,)}}, {"plan": {"type": "all", "share": 1.0}, "optimizer_steps": 2}],
)
def test_ranking_of_branches_or_of_a_policy_that_moves_is_refused(settings: dict[str, Any]) -> None:
    config = PolicyGradientConfig.model_validate({"group_size": 4, "surrogate": {"type": "ranking"}, **settings})
    with pytest.raises(ValueError, match=r"plan\.type=all or window and algorithm\.optimizer_steps=1"):
        config.check_rollout(5)

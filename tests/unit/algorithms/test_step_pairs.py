"""Preference pairs of steps: their choice, the gradient of an update by hand, and steps as points of an error."""

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from srpo_ray.algorithms.moves import Moves
from srpo_ray.algorithms.policy_gradient import PolicyGradient
from srpo_ray.algorithms.preference_losses import logistic
from srpo_ray.algorithms.step_pairs import pair_losses, pair_signs
from srpo_ray.config.algorithms.policy_gradient import PolicyGradientConfig
from srpo_ray.config.model import RolloutConfig
from srpo_ray.flow import log_density, stochastic_step
from srpo_ray.rewards.base import RewardScorer, Scores
from tests.helpers.algorithms.stand_ins import AffinePolicy, as_policy, grid, make_batch, settle_on_workers

GROUP, STEPS, BETA = 4, 6, 30.0
BATCH = make_batch(children=range(GROUP))
ALL = {"plan": {"type": "all", "share": 1.0}, "noise": "per_image"}
BRANCH = {"plan": {"type": "branch", "at": (1, 3), "tails": ({"share": 0.0}, {"share": 1.0})}}


class TwoRewards:
    """Two rewards of an image: its first element, and its second one times 3."""

    pairwise: frozenset[str] = frozenset()
    trained = ("first", "second")

    def submit(self, images: Tensor, queries: Any) -> Any:
        flat = images.flatten(1)
        raw = {"first": flat[:, 0], "second": 3 * flat[:, 1]}
        weights = {"first": 1.0, "second": 0.5}
        total = raw["first"] + 0.5 * raw["second"]
        return SimpleNamespace(result=lambda: Scores(total, raw, weights))


class OpposedTails(TwoRewards):
    """The same, but the rewards of every second request count -3 times: those of the second tail."""

    def __init__(self) -> None:
        self.requests = 0

    def submit(self, images: Tensor, queries: Any) -> Any:
        self.requests += 1
        return super().submit(images if self.requests % 2 else -3 * images, queries)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(policy: AffinePolicy, settings: dict[str, Any], rewards: TwoRewards | None = None) -> PolicyGradient:
    surrogate = {"type": "pair", "beta": BETA, "clip_range": 1e6, **settings.get("surrogate", {})}
    config = PolicyGradientConfig.model_validate({"group_size": GROUP, **settings, "surrogate": surrogate})
    config.check_rollout(STEPS)
    scorer = cast(RewardScorer, rewards or TwoRewards())
    return PolicyGradient(config, RolloutConfig(num_steps=STEPS), as_policy(policy), scorer)


def collect(algorithm: PolicyGradient, policy: AffinePolicy, batch: Any = BATCH) -> Moves:
    """Steps of a policy that has moved away from the initial model, whose slope is 0.7 of the policy's."""
    slope, moves = policy.slope.detach().clone(), cast(Any, None)
    for phase in algorithm.phases:
        policy.slope.data = slope if phase.role == "policy" else 0.7 * slope
        with torch.no_grad():
            moves = phase.run(batch, moves)
    policy.slope.data = slope
    return moves


def trained(
    policy: AffinePolicy, settings: dict[str, Any], batch: Any = BATCH
) -> tuple[PolicyGradient, Moves, list[Any]]:
    """A settled micro-batch, and its outputs after the backward pass."""
    algorithm = make(policy, settings)
    (moves,) = algorithm.settle([(batch, collect(algorithm, policy, batch))], lambda value: [value])
    outputs = [loss() for loss in algorithm.losses(batch, moves)]
    torch.stack([each.loss for each in outputs]).sum().backward()
    return algorithm, moves, outputs


def chosen_by_hand(tails: Any, select: str, min_gap: float) -> list[tuple[int, int] | None]:
    """Pair of each prompt from the means of the tails, by loops over all images."""
    scores = [pending.result() for pending in tails]
    first, second = (
        torch.stack([each.raw[name] for each in scores]).mean(dim=0).tolist() for name in ("first", "second")
    )
    found: list[tuple[int, int] | None] = []
    for start in range(0, len(first), GROUP):
        rows = range(start, start + GROUP)
        allowed = {
            (i, j): first[i] - first[j] + 0.5 * (second[i] - second[j])
            for i in rows
            for j in rows
            if select == "best_worst" or (first[i] >= first[j] and second[i] >= second[j])
        }
        pair = max(allowed, key=lambda each: allowed[each])
        found.append(pair if allowed[pair] > 0 and allowed[pair] >= min_gap else None)
    return found


def ratio_by_hand(policy: AffinePolicy, move: Any, row: int) -> Tensor:
    """Log-ratio of a step of one image to the initial model, with gradient."""
    block = len(move.after) // len(move.before)
    before, after = move.before[row // block][None], move.after[row][None]
    sigmas = torch.tensor(grid(STEPS), dtype=torch.float64)
    here, there = sigmas[move.step][None], sigmas[move.step + 1][None]
    densities = []
    for factor in (1.0, 0.7):
        velocity = factor * policy.slope * before + policy.offset
        mean, std = stochastic_step(
            before, velocity, here, there, step="euler_maruyama", noise="constant", strength=0.3
        )
        densities.append(log_density(after, mean, std)[0])
    return densities[0] - densities[1].detach()


def gap_between(settings: dict[str, Any]) -> float:
    """A gap that refuses one of the three prompts, by the finished images of the first scores."""
    _, moves, _ = trained(AffinePolicy(), settings)
    totals = moves.scores[0][0].result().total.reshape(3, -1)
    gaps = sorted((totals.amax(dim=1) - totals.amin(dim=1)).tolist())
    return (gaps[0] + gaps[1]) / 2


@pytest.mark.parametrize(
    ("settings", "discount", "select", "refuses"),
    [
        (ALL, 1.0, "best_worst", False),
        (ALL, 0.6, "dominance", False),
        ({"plan": {"type": "all", "share": 0.5}}, 1.5, "best_worst", True),
        ({"plan": {"type": "window", "size": 2, "steps": (1, 4)}}, 0.8, "best_worst", False),
        (BRANCH, 1.0, "dominance", False),
        ({"plan": {"type": "branch", "at": (1, 3), "tails": ({"share": 0.0},)}}, 0.5, "best_worst", True),
    ],
    ids=str,
)
def test_gradient_is_that_of_the_logistic_preference_of_the_chosen_images_at_every_step(
    settings: dict[str, Any], discount: float, select: str, refuses: bool
) -> None:
    min_gap = gap_between(settings) if refuses else 0.0
    policy = AffinePolicy()
    surrogate = {"discount": discount, "select": select, "min_gap": min_gap}
    algorithm, moves, outputs = trained(policy, {**settings, "surrogate": surrogate})
    assert policy.slope.grad is not None
    found, policy.slope.grad = policy.slope.grad.clone(), None

    steps = [each.steps.tolist() for each in algorithm._trained(BATCH, moves)]
    by_step = {move.step: move for move in moves.moves}
    pairs = {move.scores: chosen_by_hand(moves.scores[move.scores], select, min_gap) for move in moves.moves}
    count, losses, refused = 0, [], []
    for prompt in range(3):
        mine = [each[prompt * len(each) // 3] for each in steps]
        total = sum(discount**step for step in mine)
        for step in mine:
            pair, weight = pairs[by_step[step].scores][prompt], discount**step / total
            count += 1
            refused.append(pair is None)
            if pair is not None:
                better, worse = (ratio_by_hand(policy, by_step[step], row) for row in pair)
                losses.append(-weight * logsigmoid(BETA * (better - worse)) / 3)
    assert losses
    expected = torch.stack(losses).sum()
    expected.backward()
    assert policy.slope.grad is not None
    assert policy.slope.grad.abs() > 1e-5
    torch.testing.assert_close(found, policy.slope.grad, rtol=1e-6, atol=1e-10)
    assert sum(each.loss.item() for each in outputs) == pytest.approx(expected.item(), rel=1e-6)
    shares = torch.stack([each.metrics["pair/refused"].mean() for each in outputs])
    assert shares.mean().item() == pytest.approx(sum(refused) / count)


def test_share_of_groups_without_a_pair_is_reported() -> None:
    for min_gap, share in ((0.0, 0.0), (gap_between(ALL), 1 / 3), (1e9, 1.0)):
        _, _, outputs = trained(AffinePolicy(), {**ALL, "surrogate": {"min_gap": min_gap}})
        assert [each.metrics["pair/refused"].mean().item() for each in outputs] == pytest.approx([share] * 5)


def test_group_without_a_pair_has_no_loss_and_no_gradient_but_the_same_calls() -> None:
    calls = []
    for min_gap in (0.0, 1e9):
        policy = AffinePolicy()
        _, _, outputs = trained(policy, {**ALL, "surrogate": {"min_gap": min_gap}})
        calls.append(len(policy.calls))
        assert policy.slope.grad is not None
        assert (policy.slope.grad == 0) == (min_gap > 0)
        assert (sum(each.loss.item() for each in outputs) == 0) == (min_gap > 0)
    assert calls[0] == calls[1]


def test_pair_is_that_of_the_mean_over_the_tails() -> None:
    policy = AffinePolicy()
    algorithm = make(policy, {**BRANCH, "surrogate": {"select": "dominance"}}, OpposedTails())
    (moves,) = algorithm.settle([(BATCH, collect(algorithm, policy))], lambda value: [value])
    pairs = chosen_by_hand(moves.scores[0], "dominance", 0.0)
    expected = torch.zeros(3 * GROUP, dtype=torch.float64)
    for better, worse in (pair for pair in pairs if pair is not None):
        expected[better], expected[worse] = 1.0, -1.0
    assert expected.any()
    assert torch.equal(moves.advantages[0], expected)
    assert pairs != chosen_by_hand(moves.scores[0][:1], "dominance", 0.0)


def test_discount_near_zero_trains_the_first_step_only() -> None:
    policy = AffinePolicy()
    _, moves, _ = trained(policy, {**ALL, "surrogate": {"discount": 1e-12}})
    assert policy.slope.grad is not None
    found, policy.slope.grad = policy.slope.grad.clone(), None
    losses = []
    for pair in chosen_by_hand(moves.scores[0], "best_worst", 0.0):
        assert pair is not None
        better, worse = (ratio_by_hand(policy, moves.moves[0], row) for row in pair)
        losses.append(-logsigmoid(BETA * (better - worse)))
    torch.stack(losses).mean().backward()
    assert policy.slope.grad is not None
    torch.testing.assert_close(found, policy.slope.grad, rtol=1e-6, atol=1e-10)


def test_ratios_outside_the_clip_range_have_no_gradient() -> None:
    policy = AffinePolicy()
    _, _, outputs = trained(policy, {**ALL, "surrogate": {"clip_range": 1e-9}})
    assert policy.slope.grad is not None
    assert policy.slope.grad == 0
    for output in outputs:
        assert output.metrics["ratio/clip_fraction"].tolist() == [1.0] * 3
        assert output.metrics["pair/margin"].abs().max() <= 2.1e-9
        assert output.metrics["loss/policy"].tolist() == pytest.approx([math.log(2)] * 3)


def test_images_of_a_pair_are_at_the_same_step_and_prompts_have_their_own_order() -> None:
    policy = AffinePolicy()
    algorithm = make(policy, {"plan": {"type": "all", "share": 1.0}})
    (moves,) = algorithm.settle([(BATCH, collect(algorithm, policy))], lambda value: [value])
    steps = torch.stack([each.steps for each in algorithm._trained(BATCH, moves)]).reshape(-1, 3, GROUP)
    assert torch.equal(steps, steps[:, :, :1].expand_as(steps))
    assert not torch.equal(steps[:, 0], steps[:, 1])
    assert steps[:, :, 0].sort(dim=0).values.tolist() == [[step] * 3 for step in range(STEPS - 1)]


def test_pairs_are_the_same_on_any_number_of_workers() -> None:
    policy = AffinePolicy()
    algorithm = make(policy, {**ALL, "surrogate": {"select": "dominance", "discount": 0.7}})
    batches = [make_batch(samples=[sample], children=range(GROUP)) for sample in range(6)]
    rounds = [(batch, collect(algorithm, policy, batch)) for batch in batches]
    (alone,) = settle_on_workers(algorithm, [rounds])
    found = settle_on_workers(algorithm, [rounds[0::2], rounds[1::2]])
    for worker, parts in enumerate(found):
        for moves, expected in zip(parts, alone[worker::2], strict=True):
            assert all(map(torch.equal, moves.advantages, expected.advantages))
            assert all(map(torch.equal, moves.weights, expected.weights))


def test_pair_of_two_images_with_one_step_is_the_ranking_of_two() -> None:
    gradients = []
    for kind in ("pair", "ranking"):
        policy = AffinePolicy()
        plan = {"type": "window", "size": 1, "steps": (2, 3)}
        settings = {"plan": plan, "group_size": 2, "surrogate": {"type": kind}}
        trained(policy, settings, make_batch(children=range(2)))
        assert policy.slope.grad is not None
        gradients.append(policy.slope.grad)
    # The ranking's likelihood is that of an image, the preference that of a pair.
    torch.testing.assert_close(gradients[0], 2 * gradients[1], rtol=1e-6, atol=1e-12)


def test_signs_follow_the_published_threshold_of_a_softmax() -> None:
    scores = 0.2 + 0.005 * draw(200, 4, seed=3)
    published, scale = 0.4, 100.0
    ordered = torch.softmax(scale * torch.stack([scores.amax(dim=1), scores.amin(dim=1)]), dim=0)
    expected = ordered[0] - ordered[1] >= published
    min_gap = 2 * math.atanh(published) / scale
    signs = pair_signs(scores, scores[:, :, None], [1.0], "best_worst", min_gap)
    assert torch.equal((signs != 0).any(dim=1), expected)
    assert 0 < expected.double().mean() < 1
    assert torch.equal(signs.argmax(dim=1)[expected], scores.argmax(dim=1)[expected])
    assert torch.equal(signs.argmin(dim=1)[expected], scores.argmin(dim=1)[expected])


def test_best_and_worst_are_those_of_the_advantages_and_the_gap_that_of_the_rewards() -> None:
    advantages = torch.tensor([[1.0, 0.0, -1.0], [1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]).double()
    rewards = torch.tensor([[3.0, 9.0, 1.0], [1.5, 9.0, 1.0], [1.0, 2.0, 3.0]]).double()[:, :, None]
    signs = pair_signs(advantages, rewards, [1.0], "best_worst", 1.0)
    assert signs.tolist() == [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_without_a_gap_the_advantages_alone_decide_whatever_the_scales_of_the_rewards() -> None:
    advantages = torch.tensor([[-0.7, 0.7]]).double()
    # The sum is larger for the first image, by a reward of a large scale.
    rewards = torch.tensor([[[0.0, 100.0], [1.0, 0.0]]]).double()
    assert pair_signs(advantages, rewards, [2.0, 1.0], "best_worst", 0.0).tolist() == [[-1.0, 1.0]]
    assert pair_signs(advantages, rewards, [2.0, 1.0], "best_worst", 1e-9).tolist() == [[0.0, 0.0]]


def test_loss_prefers_one_image_and_a_clipped_ratio_has_no_gradient() -> None:
    log_ratio = torch.tensor([[0.02, 0.01, -0.03], [0.5, 0.0, 0.01], [0.1, 0.2, 0.3]]).double().requires_grad_()
    signs = torch.tensor([[1.0, 0.0, -1.0], [1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]).double()
    inside = log_ratio.clamp(math.log(0.9), math.log(1.1))
    found = pair_losses(log_ratio, inside, signs, 10.0)
    margins = torch.tensor([0.05, math.log(1.1) - 0.01, 0.0]).double()
    expected = torch.log1p(torch.exp(-10 * margins)) * torch.tensor([1.0, 1.0, 0.0])
    torch.testing.assert_close(found.losses, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.margins, margins)
    assert found.clipped.tolist() == [0.0, 1.0, 0.0]
    found.losses.sum().backward()
    assert log_ratio.grad is not None
    slope = 10 / (1 + torch.exp(10 * margins[0])).item()
    assert log_ratio.grad[0].tolist() == pytest.approx([-slope, 0.0, slope])
    assert log_ratio.grad[1, 0] == 0
    assert log_ratio.grad[2].tolist() == [0.0, 0.0, 0.0]


KINDS: dict[str, dict[str, Any]] = {
    "Euler-Maruyama, constant": {"step": "euler_maruyama", "noise": "constant", "strength": 0.3},
    "Euler-Maruyama, flow": {"step": "euler_maruyama", "noise": "flow", "strength": 0.7},
    "frozen, cps": {"step": "frozen", "noise": "cps", "strength": 0.8},
    "fresh noise": {"step": "frozen", "noise": "cps", "strength": 1.0},
}


@pytest.mark.parametrize("kind", KINDS)
def test_ratio_of_a_step_is_the_gain_of_a_point_whose_target_the_step_implies(kind: str) -> None:
    shape, sigma, sigma_next = (
        (5, 4, 3),
        torch.tensor([0.95, 0.8, 0.6, 0.4, 0.3]).double(),
        torch.tensor([0.9, 0.7, 0.45, 0.2, 0.1]).double(),
    )
    x, after = draw(*shape, seed=0), draw(*shape, seed=1)
    velocity, reference = draw(*shape, seed=2), draw(*shape, seed=3)

    def density(each: Tensor) -> Tensor:
        return log_density(after, *stochastic_step(x, each, sigma, sigma_next, **KINDS[kind]))

    # A step x' ~ N(a x + b v, std^2) is made by the velocity u = (x' - a x) / b.
    a, b, std = coefficients(kind, sigma, sigma_next)
    target = (after - a[:, None, None] * x) / b[:, None, None]
    errors = [(each - target).pow(2).mean(dim=(1, 2)) for each in (reference, velocity)]
    factor = b**2 / (2 * std**2)
    expected = factor * (errors[0] - errors[1])
    torch.testing.assert_close(density(velocity) - density(reference), expected, rtol=1e-9, atol=1e-10)
    # So the preference of two steps from one state is that of two points, with the slope 2 beta k.
    other = draw(*shape, seed=4)
    margins = expected - factor * (
        (reference - other).pow(2).mean(dim=(1, 2)) - (velocity - other).pow(2).mean(dim=(1, 2))
    )
    signs, ratios = torch.tensor([[1.0, -1.0]]).double().expand(5, 2), torch.stack([expected, expected - margins], 1)
    torch.testing.assert_close(pair_losses(ratios, ratios, signs, 10.0).losses, logistic(10.0 * margins))


def coefficients(kind: str, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of state and velocity in the mean of a step, and its standard deviation, by hand."""
    if kind == "fresh noise":
        return 1 - t, -(1 - t) * s, t
    if kind == "frozen, cps":
        kept = math.cos(0.4 * math.pi)
        return 1 - t + t * kept, -(1 - t) * s + t * kept * (1 - s), t * math.sqrt(1 - kept**2)
    eta2 = torch.full_like(s, 0.3**2) if kind.endswith("constant") else 0.7**2 * s / (1 - s)
    d = t - s
    return 1 + eta2 * d / (2 * s), d * (1 + eta2 * (1 - s) / (2 * s)), torch.sqrt(-eta2 * d)


def test_steps_with_fresh_noise_are_the_few_step_sampler() -> None:
    x, velocity = draw(2, 4, 3, seed=0), draw(2, 4, 3, seed=1)
    sigma, sigma_next = torch.tensor([1.0, 0.5]).double(), torch.tensor([0.75, 0.25]).double()
    mean, std = stochastic_step(x, velocity, sigma, sigma_next, **KINDS["fresh noise"])
    clean = x - sigma[:, None, None] * velocity
    torch.testing.assert_close(mean, (1 - sigma_next)[:, None, None] * clean, rtol=0, atol=0)
    assert std.flatten().tolist() == sigma_next.tolist()


def parents(path: str, updates: int) -> tuple[list[int | None], AffinePolicy]:
    """Index of the image from whose state each prompt's second branch starts; None if it is no image's."""
    found: list[int | None] = []
    policy = AffinePolicy()
    for update in range(updates):
        plan = {"type": "branch", "at": (1, 2), "path": path, "tails": ({"share": 0.0},)}
        moves = make(policy, {"plan": plan}).collect(make_batch(update=update, children=range(GROUP)))
        first, second = moves.moves
        assert len(second.before) == 3
        for prompt, state in enumerate(second.before):
            children = first.after[prompt * GROUP : (prompt + 1) * GROUP]
            equal = [child for child, other in enumerate(children) if torch.equal(state, other)]
            found.append(equal[0] if equal else None)
    return found, policy


def test_path_goes_on_from_a_drawn_child_or_without_noise() -> None:
    found, policy = parents("child", 20)
    assert set(found) == set(range(GROUP))
    # Prompts of an update draw children of their own.
    assert any(len(set(found[start : start + 3])) > 1 for start in range(0, len(found), 3))
    euler, other = parents("euler", 4)
    assert set(euler) == {None}
    assert len(policy.calls) / 20 == len(other.calls) / 4
    again, _ = parents("child", 20)
    assert again == found


def test_path_between_branch_points_makes_euler_steps_from_the_child() -> None:
    policy = AffinePolicy()
    plan = {"type": "branch", "at": (0, 3), "path": "child", "tails": ({"share": 0.0},)}
    first, second = make(policy, {"plan": plan}).collect(BATCH).moves
    ends = first.after
    for here in (1, 2):
        move = grid(STEPS)[here + 1] - grid(STEPS)[here]
        ends = ends + move * (policy.slope.detach() * ends + policy.offset.detach())
    for prompt, state in enumerate(second.before):
        distances = (ends[prompt * GROUP : (prompt + 1) * GROUP] - state).abs().amax(dim=(1, 2))
        assert sorted(distances.tolist())[0] < 1e-6 < sorted(distances.tolist())[1]


def test_child_of_a_sample_does_not_depend_on_its_micro_batch() -> None:
    policy = AffinePolicy()
    plan = {"type": "branch", "at": (1, 2), "path": "child"}
    whole = make(policy, {"plan": plan}).collect(BATCH)
    alone = make(policy, {"plan": plan}).collect(make_batch(samples=[2], children=range(GROUP)))
    assert torch.equal(whole.moves[1].before[2:], alone.moves[1].before)


def test_several_optimizer_steps_share_the_steps_of_pairs() -> None:
    policy = AffinePolicy()
    algorithm = make(policy, {**BRANCH, "optimizer_steps": 2})
    (moves,) = algorithm.settle([(BATCH, collect(algorithm, policy))], lambda value: [value])
    assert [len(list(algorithm.losses(BATCH, moves, part))) for part in range(2)] == [1, 1]

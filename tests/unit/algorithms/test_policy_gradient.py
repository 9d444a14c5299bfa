"""Policy gradients: paths of every plan by hand, shared states against separate ones, and the estimated direction."""

import math
from dataclasses import replace
from itertools import pairwise
from statistics import mean
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms.moves import Moves
from srpo_ray.algorithms.policy_gradient import PolicyGradient
from srpo_ray.config.algorithms.policy_gradient import PolicyGradientConfig
from srpo_ray.config.model import RolloutConfig
from srpo_ray.rewards.base import Scores
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

STEPS = 8
GROUP = 4
BATCH = make_batch(children=range(GROUP))
WINDOW = {"type": "window", "size": 2, "steps": (2, 7)}
BRANCH = {"type": "branch", "at": (1, 4), "tails": ({"share": 1.0}, {"share": 0.5})}
TREE = {"type": "tree", "splits": (1, 3)}


def make(policy: AffinePolicy, rewards: Any = None, num_steps: int = STEPS, **settings: Any) -> PolicyGradient:
    config = PolicyGradientConfig.model_validate({"group_size": GROUP, **settings})
    config.check_rollout(num_steps)
    rollout = RolloutConfig(num_steps=num_steps, guidance_scale=2.0)
    return PolicyGradient(config, rollout, as_policy(policy), as_scorer(rewards or PromptRewards()))


def euler_by_hand(policy: AffinePolicy, tokens: Tensor, points: list[int]) -> Tensor:
    """Euler steps along points of the sampler's grid."""
    slope, offset = policy.slope.detach(), policy.offset.detach()
    for here, there in pairwise(points):
        tokens = tokens + (grid(STEPS)[there] - grid(STEPS)[here]) * (slope * tokens + offset)
    return tokens


def test_window_is_random_and_the_steps_around_it_are_euler_steps() -> None:
    policy, rewards = AffinePolicy(), PromptRewards()
    algorithm = make(policy, rewards, noise="per_image", plan=WINDOW)
    moves = algorithm.collect(BATCH)
    first = moves.moves[0].step
    assert [move.step for move in moves.moves] == [first, first + 1]
    assert torch.equal(moves.moves[1].before, moves.moves[0].after)
    noise = torch.cat([algorithm.noise(BATCH, scope="per_image")])
    assert len({row.sum().item() for row in noise}) == 3 * GROUP
    before = euler_by_hand(policy, noise, list(range(first + 1)))
    torch.testing.assert_close(moves.moves[0].before, before, rtol=1e-6, atol=1e-6)
    images = euler_by_hand(policy, moves.moves[1].after, list(range(first + 2, STEPS + 1)))
    torch.testing.assert_close(rewards.submitted[0][0], images, rtol=1e-6, atol=1e-6)
    assert (moves.moves[0].after - euler_by_hand(policy, before, [first, first + 1])).abs().min() > 0


def test_images_of_one_noise_share_their_state_up_to_the_first_random_step() -> None:
    policy = AffinePolicy()
    moves = make(policy, plan={**WINDOW, "steps": (2, 4)}).collect(BATCH)
    assert [(len(move.before), len(move.after)) for move in moves.moves] == [(3, 12), (12, 12)]
    noise = drawn_noise(3, "rollout")
    before = euler_by_hand(policy, noise, [0, 1, 2])
    torch.testing.assert_close(moves.moves[0].before, before, rtol=1e-6, atol=1e-6)


def update_of(update: int, sample: int = 0) -> Any:
    return make_batch(samples=[sample], update=update, children=range(GROUP))


def starts(updates: int, **settings: Any) -> list[int]:
    algorithm = make(AffinePolicy(), plan={**WINDOW, **settings})
    return [algorithm.collect(update_of(update)).moves[0].step for update in range(updates)]


def test_progressive_window_moves_and_returns_to_its_start_or_stays() -> None:
    assert starts(10, start="progressive", every=2, stride=1) == [2, 2, 3, 3, 4, 4, 5, 5, 2, 2]
    assert starts(10, start="progressive", every=2, roll_back=False) == [2, 2, 3, 3, 4, 4, 5, 5, 5, 5]
    assert starts(6, start="progressive", every=1, stride=2) == [2, 4, 2, 4, 2, 4]


def test_random_window_takes_every_position_and_depends_on_the_update_alone() -> None:
    found = starts(60, start="random")
    assert set(found) == {2, 3, 4, 5}
    algorithm = make(AffinePolicy(), plan=WINDOW)
    other = [algorithm.collect(update_of(update, 5)).moves[0].step for update in range(60)]
    assert other == found


def test_branches_leave_one_euler_path_and_each_tail_ends_in_an_image() -> None:
    policy, rewards = AffinePolicy(), PromptRewards()
    moves = make(policy, rewards, plan=BRANCH).collect(BATCH)
    assert [(move.step, len(move.before), len(move.after)) for move in moves.moves] == [(1, 3, 12), (4, 3, 12)]
    noise = drawn_noise(3, "rollout")
    for move, tails in zip(
        moves.moves, ([[2, 3, 4, 5, 6, 7, 8], [2, 4, 6, 8]], [[5, 6, 7, 8], [5, 7, 8]]), strict=True
    ):
        path = euler_by_hand(policy, noise, list(range(move.step + 1)))
        torch.testing.assert_close(move.before, path, rtol=1e-6, atol=1e-6)
        for points in tails:
            images, _ = rewards.submitted.pop(0)
            expected = euler_by_hand(policy, move.after, points)
            torch.testing.assert_close(images, expected, rtol=1e-6, atol=1e-6)
    assert not rewards.submitted
    # The common path costs five calls of three states: four steps, of which a branch point keeps its velocity.
    assert [len(sigmas) for sigmas in policy.sigmas].count(3) == 5


def test_tail_without_steps_is_the_predicted_clean_image() -> None:
    policy, rewards = AffinePolicy(), PromptRewards()
    moves = make(policy, rewards, plan={"type": "branch", "at": (2,), "tails": ({"share": 0.0},)}).collect(BATCH)
    expected = euler_by_hand(policy, moves.moves[0].after, [3, 8])
    torch.testing.assert_close(rewards.submitted[0][0], expected, rtol=1e-6, atol=1e-6)


def test_paths_of_a_tree_divide_at_its_splits() -> None:
    policy = AffinePolicy()
    moves = make(policy, plan=TREE).collect(BATCH)
    sizes = [(move.step, len(move.before) // 3, len(move.after) // 3) for move in moves.moves]
    assert sizes == [(1, 1, 2), (2, 2, 2), (3, 2, 4), (4, 4, 4), (5, 4, 4), (6, 4, 4)]
    for move, following in pairwise(moves.moves):
        assert torch.equal(following.before, move.after)
    assert all(len({state.sum().item() for state in move.after}) == len(move.after) for move in moves.moves)
    splits = make(policy, plan={**TREE, "random_between": False}).collect(BATCH)
    assert [move.step for move in splits.moves] == [1, 3]
    between = euler_by_hand(policy, splits.moves[0].after, [2, 3])
    torch.testing.assert_close(splits.moves[1].before, between, rtol=1e-6, atol=1e-6)


def test_state_of_a_tree_has_the_mean_of_its_leaves_compared_at_its_depth() -> None:
    algorithm = make(AffinePolicy(), plan=TREE)
    (moves,) = collect_all(algorithm, [BATCH])
    rewards = moves.scores[0][0].result().total.reshape(3, 2, 2)
    inner = rewards.mean(dim=2)
    expected = (inner - inner.mean(dim=1, keepdim=True)) / inner.std(dim=1, keepdim=True)
    torch.testing.assert_close(moves.advantages[0].reshape(3, 2), expected, rtol=1e-5, atol=1e-6)
    leaves = rewards.reshape(3, 4)
    expected = (leaves - leaves.mean(dim=1, keepdim=True)) / leaves.std(dim=1, keepdim=True)
    torch.testing.assert_close(moves.advantages[-1].reshape(3, 4), expected, rtol=1e-5, atol=1e-6)


def test_advantages_of_several_tails_are_averaged() -> None:
    class Elements(PromptRewards):
        """Score = one element of the image, another one in each call: tails of one image do not agree."""

        def submit(self, images: Tensor, queries: Any) -> Any:
            total = images.flatten(1)[:, len(self.submitted)]
            self.submitted.append((images, queries))
            return SimpleNamespace(result=lambda: Scores(total, {"linear": total}, {"linear": 1.0}))

    algorithm = make(AffinePolicy(), Elements(), plan=BRANCH)
    (moves,) = collect_all(algorithm, [BATCH])
    parts = []
    for pending in moves.scores[1]:
        rewards = pending.result().total.reshape(3, GROUP)
        parts.append((rewards - rewards.mean(dim=1, keepdim=True)) / rewards.std(dim=1, keepdim=True))
    torch.testing.assert_close(moves.advantages[1].reshape(3, GROUP), sum(parts) / 2, rtol=1e-5, atol=1e-6)


def back_propagate(algorithm: PolicyGradient, rounds: list[tuple[Any, Moves]]) -> None:
    for batch, moves in rounds:
        for part in range(algorithm.calls.optimizer_steps):
            for loss in algorithm.losses(batch, moves, part):
                (loss().loss / len(rounds)).backward()


PLANS: dict[str, dict[str, Any]] = {
    "window": {"plan": WINDOW},
    "branch": {"plan": BRANCH, "transition": {"noise": "flow", "strength": 0.7}},
    "tree": {"plan": TREE},
    "tree, splits alone": {"plan": {**TREE, "random_between": False}},
    "frozen": {"plan": WINDOW, "transition": {"step": "frozen", "noise": "cps", "strength": 0.8}},
    "guard": {"plan": BRANCH, "surrogate": {"type": "guard"}},
    "divergence": {"plan": TREE, "surrogate": {"kl": 0.1}},
    "fast tail": {"plan": {**WINDOW, "tail": {"share": 0.4, "solver": "dpm_solver"}}},
}


@pytest.mark.parametrize("case", PLANS)
@pytest.mark.parametrize("images", [1, 2])
def test_shared_states_have_the_gradient_of_separate_calls_in_any_passes_and_workers(case: str, images: int) -> None:
    whole, divided = AffinePolicy(), AffinePolicy()
    algorithm = make(whole, **PLANS[case])
    (moves,) = collect_all(algorithm, [BATCH])
    back_propagate(algorithm, [(BATCH, moves)])
    apart = make(divided, **PLANS[case], images_per_pass=images)
    batches = [
        make_batch(samples=[sample], children=range(start, start + images))
        for sample in range(3)
        for start in range(0, GROUP, images)
    ]
    rounds = [(batch, collected(apart, batch)) for batch in batches]
    first, second = settle_on_workers(apart, [rounds[0::2], [*rounds[1::2], rounds[0]]])
    assert all(map(torch.equal, second[-1].advantages, first[0].advantages))
    order = rounds[0::2] + rounds[1::2]
    back_propagate(apart, [(batch, found) for (batch, _), found in zip(order, first + second[:-1], strict=True)])
    for found, expected in ((divided.offset.grad, whole.offset.grad), (divided.slope.grad, whole.slope.grad)):
        assert found is not None
        assert found.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@torch.no_grad()
def collected(algorithm: PolicyGradient, batch: Any) -> Moves:
    found: Any = None
    for phase in algorithm.phases:
        found = phase.run(batch, found)
    return found


@pytest.mark.parametrize("case", PLANS)
def test_images_sampled_together_are_those_of_each_micro_batch(case: str) -> None:
    algorithm = make(AffinePolicy(), **PLANS[case])
    whole = collected(algorithm, BATCH)
    alone = collected(algorithm, make_batch(samples=[1, 2], children=range(GROUP)))
    part = whole[GROUP : 3 * GROUP]
    assert part.images == alone.images == 2 * GROUP
    for found, expected in zip(part.moves, alone.moves, strict=True):
        assert torch.equal(found.before, expected.before)
        assert torch.equal(found.after, expected.after)
        assert torch.equal(found.log_density, expected.log_density)
    assert all(map(torch.equal, part.reference, alone.reference))
    for found, expected in zip(part.scores, alone.scores, strict=True):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.result().total, other.result().total)


class LinearRewards:
    """Score = direction . image."""

    def __init__(self, direction: Tensor) -> None:
        self.direction = direction

    def submit(self, images: Tensor, queries: Any) -> Any:
        total = (images * self.direction).sum(dim=(1, 2))
        return SimpleNamespace(result=lambda: Scores(total, {"linear": total}, {"linear": 1.0}))


def cosine(group_size: int, update: int, surrogate: dict[str, Any]) -> float:
    """Cosine of an update of the offset and the direction that the reward grows in."""
    policy = AffinePolicy()
    direction = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.5, -1.0]], dtype=torch.float64)
    plan = {"type": "branch", "at": (3,)}
    algorithm = make(policy, LinearRewards(direction), plan=plan, group_size=group_size, surrogate=surrogate)
    batch = make_batch(1, update=update, children=range(group_size))
    (moves,) = collect_all(algorithm, [batch])
    back_propagate(algorithm, [(batch, moves)])
    assert policy.offset.grad is not None
    # A positive velocity lowers the image, as the step goes towards data.
    return torch.cosine_similarity(policy.offset.grad.flatten(), direction.flatten(), dim=0).item()


@pytest.mark.parametrize("surrogate", [{}, {"type": "guard"}, {"type": "dppo"}], ids=str)
def test_update_of_one_random_step_is_along_the_gradient_of_the_reward_and_sharper_in_larger_groups(
    surrogate: dict[str, Any],
) -> None:
    found = {size: mean(cosine(size, update, surrogate) for update in range(12)) for size in (4, 16, 256)}
    # Each of 6 elements has a random part of 1 / sqrt(G) of the signal's length.
    assert found[4] < found[16] < found[256]
    assert found[16] == pytest.approx(1 / math.sqrt(1 + 5 / 16), abs=0.08)
    assert found[256] > 0.98


def test_divergence_from_the_initial_model_is_that_of_the_means() -> None:
    policy = AffinePolicy()
    algorithm = make(policy, plan={"type": "branch", "at": (3,)}, surrogate={"kl": 2.0}, advantage={"limit": 1e-9})
    sampling, reference = algorithm.phases
    assert (sampling.role, reference.role) == ("policy", "reference")
    assert algorithm.config.roles == {"reference"}
    with torch.no_grad():
        moves = sampling.run(BATCH, None)
        policy.offset += 0.2
        moves = reference.run(BATCH, moves)
        policy.offset -= 0.2
    (moves,) = algorithm.settle([(BATCH, moves)], lambda value: [value])
    (loss,) = algorithm.losses(BATCH, moves)
    output = loss()
    here, move = grid(STEPS)[3], grid(STEPS)[4] - grid(STEPS)[3]
    shift = 0.2 * move * (1 + 0.5 * 0.3**2 * (1 - here) / here)
    expected = shift**2 / (2 * 0.3**2 * -move)
    assert output.metrics["loss/kl"].tolist() == pytest.approx([expected] * 3, rel=1e-6)
    output.loss.backward()
    assert policy.offset.grad is not None
    # d (2 * kl) / d offset, of each of the elements: the mean over elements divides by their number.
    gradient = 2 * 2 * expected / 0.2 / ELEMENTS
    torch.testing.assert_close(
        policy.offset.grad, torch.full(SHAPE, -gradient, dtype=torch.float64), rtol=1e-5, atol=1e-7
    )


def test_optimizer_steps_share_the_trained_steps() -> None:
    for plan, steps in (({"type": "all", "share": 0.9}, 6), (BRANCH, 2), (TREE, 6)):
        policy = AffinePolicy()
        algorithm = make(policy, plan=plan, optimizer_steps=2)
        (moves,) = collect_all(algorithm, [BATCH])
        policy.sigmas.clear()
        parts = []
        for part in range(2):
            found = list(algorithm.losses(BATCH, moves, part))
            assert len(found) == algorithm.calls.losses == steps // 2
            parts.append([tuple(sigmas.tolist()) for sigmas in policy.sigmas])
            policy.sigmas.clear()
        # The first state's sigmas, one per step: each step is trained once.
        assert len({sigmas[0] for sigmas in (*parts[0], *parts[1])}) == steps


def test_share_of_groups_without_differences_is_reported() -> None:
    class Constant(PromptRewards):
        def submit(self, images: Tensor, queries: Any) -> Any:
            total = torch.where(torch.arange(len(images)) < GROUP, 1.0, images.mean(dim=(1, 2)))
            return SimpleNamespace(result=lambda: Scores(total, {"linear": total}, {"linear": 1.0}))

    algorithm = make(AffinePolicy(), Constant(), plan=WINDOW)
    (moves,) = collect_all(algorithm, [BATCH])
    assert moves.metrics[0]["advantage/zero_groups"].tolist() == [1.0] * GROUP + [0.0] * 2 * GROUP
    assert moves.advantages[0][:GROUP].tolist() == [0.0] * GROUP
    assert all(math.isfinite(loss().loss.item()) for loss in algorithm.losses(BATCH, moves))


def test_exact_ratio_is_one_whatever_the_rollout_recorded() -> None:
    for ratio, clipped in (("recorded", 1.0), ("exact", 0.0)):
        policy = AffinePolicy()
        algorithm = make(policy, plan=WINDOW, surrogate={"ratio": ratio})
        (moves,) = collect_all(algorithm, [BATCH])
        moves = replace(moves, moves=tuple(replace(move, log_density=move.log_density + 0.1) for move in moves.moves))
        outputs = [loss() for loss in algorithm.losses(BATCH, moves)]
        assert {value for output in outputs for value in output.metrics["ratio/clip_fraction"].tolist()} == {clipped}
        if ratio == "exact":
            torch.testing.assert_close(outputs[1].metrics["loss/policy"], -moves.advantages[1])


def test_history_compares_an_image_with_the_earlier_rewards_of_its_prompt() -> None:
    algorithm = make(AffinePolicy(), plan=WINDOW, advantage={"history": 6})
    seen: list[Tensor] = []
    for update in range(3):
        batch = make_batch(update=update, children=range(GROUP))
        (moves,) = collect_all(algorithm, [batch])
        rewards = moves.scores[0][0].result().total.reshape(3, GROUP)
        known = torch.cat([torch.cat([*seen], dim=1)[:, -6:], rewards], dim=1) if seen else rewards
        expected = (rewards - known.mean(dim=1, keepdim=True)) / known.std(dim=1, keepdim=True)
        torch.testing.assert_close(moves.advantages[0].reshape(3, GROUP), expected.clamp(-5, 5), rtol=1e-5, atol=1e-6)
        seen.append(rewards)
    assert [len(values) for values in algorithm.state.values()] == [6, 6, 6]
    # Another prompt starts anew.
    other = make_batch(samples=[7], children=range(GROUP))
    moves = algorithm.collect(other)
    (moves,) = algorithm.settle(
        [(replace(other, draws=make_batch(1, children=range(GROUP)).draws), moves)], lambda v: [v]
    )
    assert moves.advantages[0].sum().item() == pytest.approx(0, abs=1e-9)
    assert len(algorithm.state) == 4


def test_history_keeps_rows_of_one_prompt_with_other_words_apart() -> None:
    algorithm = make(AffinePolicy(), plan=WINDOW, advantage={"history": 6})
    batch = make_batch(samples=(0, 1), children=range(GROUP))
    same = replace(batch, prompts=("prompt 0",) * 2 * GROUP)
    apart = replace(same, keys=(*["vivid"] * GROUP, *["flat"] * GROUP))
    for rows, count in ((same, 1), (apart, 3)):
        collect_all(algorithm, [rows])
        assert len(algorithm.state) == count


@pytest.mark.parametrize("case", [{"plan": TREE}, {"plan": BRANCH}, {"plan": WINDOW, "noise": "per_image"}], ids=str)
def test_advantages_have_the_same_bits_on_any_number_of_workers(case: dict[str, Any]) -> None:
    algorithm = make(AffinePolicy(), **case, advantage={"scale": "update", "centre": "update", "rewards": "each"})
    batches = [make_batch(samples=[sample], children=range(GROUP)) for sample in range(6)]
    rounds = [(batch, algorithm.collect(batch)) for batch in batches]
    (alone,) = settle_on_workers(algorithm, [rounds])
    for workers in (2, 3):
        found = settle_on_workers(algorithm, [rounds[worker::workers] for worker in range(workers)])
        for worker, parts in enumerate(found):
            for moves, expected in zip(parts, alone[worker::workers], strict=True):
                assert all(map(torch.equal, moves.advantages, expected.advantages))

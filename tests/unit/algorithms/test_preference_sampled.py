"""Preferences on sampled images: choice, points, gradients against plain autograd, roles, worker counts, refusals."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from srpo_ray.algorithms import Batch, build_algorithm
from srpo_ray.algorithms.pair_choice import confidence_of_gap
from srpo_ray.algorithms.preference_sources import judged_images, rows_of_prompts
from srpo_ray.config import load_run
from srpo_ray.config.algorithms.preference import PreferenceConfig
from srpo_ray.flow import generator
from srpo_ray.rewards.base import Scores
from tests.conftest import SMALL_WORLD
from tests.helpers.algorithms.stand_ins import (
    ELEMENTS,
    SHAPE,
    AffinePolicy,
    PromptRewards,
    UnaskedRewards,
    chain_by_hand,
    collect_all,
    grid,
    make_batch,
    points_by_hand,
)

BETA = 4.0
GROUP = 4
STEPS = 5
ONLINE = ("algorithm.source=online", f"algorithm.group_size={GROUP}")
SELF_PLAY = ("algorithm.source=self_play", "data.images=small_world:realistic")
STATES = ("algorithm.coupling=states", "algorithm.sigma={type: grid}")


class GivenRewards:
    """Two rewards whose scores of the images of each prompt are given, `[G, 2]`; a judge may know better."""

    trained = ("first", "second")

    def __init__(self, scores: Sequence[Sequence[float]], wins: dict[tuple[int, int], float] | None = None) -> None:
        self.scores = torch.tensor(scores)
        self.wins = wins
        self.pairwise = frozenset({"first"} if wins else ())
        self.events: list[str] = []

    def submit(self, images: Tensor, queries: Any) -> Any:
        self.events.append("submit")
        raw = self.scores.repeat(len(images) // len(self.scores), 1)

        def result() -> Scores:
            self.events.append("wait")
            return Scores(raw.sum(dim=1), {"first": raw[:, 0], "second": raw[:, 1]}, {"first": 1.0, "second": 1.0})

        return SimpleNamespace(result=result)

    def compare(self, images: Tensor, queries: Any, pairs: Any, names: Any) -> Any:
        assert self.wins is not None
        size = len(self.scores)
        chances = torch.tensor([self.wins[first % size, second % size] for first, second in pairs])
        return SimpleNamespace(result=lambda: dict.fromkeys(names, chances))


def make(policy: AffinePolicy, *overrides: str, rewards: Any = None) -> Any:
    own = ("algorithm.type=preference", f"algorithm.beta={BETA}", f"rollout.num_steps={STEPS}")
    config = load_run([SMALL_WORLD], [*own, *overrides])
    return build_algorithm(config, cast(Any, policy), cast(Any, rewards or PromptRewards()))


def groups(size: int = 3, update: int = 1, samples: Sequence[int] | None = None) -> Batch:
    return make_batch(size, update, samples=samples, children=range(GROUP))


def real(size: int = 3, update: int = 1) -> Batch:
    images = torch.randn(size, 1, *SHAPE, generator=torch.Generator().manual_seed(3)).double()
    return replace(make_batch(size, update), images=images, image_rows=tuple(range(size)))


def moved(policy: AffinePolicy, amount: float = 0.2) -> None:
    with torch.no_grad():
        policy.slope += amount
        policy.offset += amount * torch.arange(ELEMENTS).reshape(SHAPE)


def start(sample: int, child: int) -> Tensor:
    source = generator(7, "rollout", 1, sample, child)
    return torch.randn(SHAPE, generator=source).double()


def image(policy: AffinePolicy, sample: int, child: int) -> Tensor:
    """An image by hand."""
    return chain_by_hand(policy, start(sample, child)[None], grid(STEPS))[0][0]


def ranked(policy: AffinePolicy, sample: int) -> tuple[int, int]:
    """Best and worst image of a prompt by the stand-in's reward, whose factor of the prompt is positive."""
    means = [image(policy, sample, child).mean().item() for child in range(GROUP)]
    return means.index(max(means)), means.index(min(means))


def error(policy: AffinePolicy, tokens: Tensor, target: Tensor) -> Tensor:
    return (policy.slope * tokens + policy.offset - target).pow(2).mean(dim=(1, 2))


def mixed(clean: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    s = sigma[:, None, None]
    return (1 - s) * clean + s * noise, noise - clean


def check(policy: AffinePolicy, loss: Tensor) -> None:
    expected = torch.autograd.grad(loss, [policy.slope, policy.offset])
    for parameter, gradient in zip((policy.slope, policy.offset), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-7, atol=1e-12)


def test_best_and_worst_image_of_each_prompt_have_the_gradient_of_a_pair() -> None:
    policy, batch = AffinePolicy(), groups()
    algorithm = make(policy, *ONLINE)
    chosen = [ranked(policy, sample) for sample in range(3)]
    sides = [torch.stack([image(policy, sample, pair[side]) for sample, pair in enumerate(chosen)]) for side in (0, 1)]
    (found,) = collect_all(algorithm, [batch])
    prompts = rows_of_prompts(batch, GROUP)
    points = algorithm.points(prompts, judged_images(algorithm.config, prompts, found.sampled), 0)
    noise = algorithm.noise(prompts, "pair_noise", 0)
    at = [mixed(clean, noise, points[0].sigma) for clean in sides]
    before = [error(policy, *each).detach() for each in at]
    moved(policy)
    (output,) = [loss() for loss in algorithm.losses(batch, found)]
    output.loss.backward()
    margin = (before[0] - error(policy, *at[0])) - (before[1] - error(policy, *at[1]))
    check(policy, -logsigmoid(BETA / 2 * margin).mean())
    torch.testing.assert_close(output.metrics["preference/margin"], margin.detach())
    gaps = [
        (sample + 1) * (best - worst).mean().item() for sample, (best, worst) in enumerate(zip(*sides, strict=True))
    ]
    torch.testing.assert_close(output.metrics["preference/gap"], torch.tensor(gaps).double())
    assert output.metrics["preference/without_pair"].tolist() == [0, 0, 0]
    assert output.metrics["reward/total/sample"].shape == (3 * GROUP,)


def test_prompt_whose_images_score_equally_has_the_weight_zero_and_the_same_calls() -> None:
    calls = {}
    for name, rewards in (("equal", UnaskedRewards()), ("ranked", PromptRewards())):
        policy, batch = AffinePolicy(), groups()
        algorithm = make(policy, *ONLINE, "algorithm.sft=0.5", rewards=rewards)
        (found,) = collect_all(algorithm, [batch])
        moved(policy)
        (output,) = [loss() for loss in algorithm.losses(batch, found)]
        output.loss.backward()
        calls[name] = policy.calls
        assert policy.offset.grad is not None
        assert (policy.offset.grad.abs().max() == 0) == (name == "equal")
        if name == "equal":
            assert output.metrics["preference/without_pair"].tolist() == [1, 1, 1]
            assert output.metrics["preference/gap"].numel() == output.metrics["preference/margin"].numel() == 0
    assert [gradient for gradient, *_ in calls["equal"]] == [gradient for gradient, *_ in calls["ranked"]]


SUMS = ((3.0, -103.0), (2.0, -1.0), (1.0, 20.0), (0.5, -1.5))
"""Scores of four images with the sums -100, 1, 21 and -1."""
VOTES = ((0.0, -100.0), (2.0, -1.0), (1.0, 20.0), (3.0, -3.0))
"""Image 1 beats 0 alone, 2 beats 0 alone, 3 beats 0 alone, and all others tie."""


@pytest.mark.parametrize(
    ("override", "scores", "expected"),
    [
        ("select=best_worst", SUMS, (2, 0)),
        # Image 0 has the best first score.
        ("select=dominance", SUMS, (2, 3)),
        ("min_gap=200", SUMS, None),
        ("select=vote", VOTES, (1, 0)),
    ],
)
def test_images_are_chosen_by_the_rule_of_the_config(override: str, scores: Any, expected: Any) -> None:
    rewards = GivenRewards(scores)
    algorithm = make(AffinePolicy(), *ONLINE, f"algorithm.{override}", rewards=rewards)
    batch = groups(1)
    (found,) = collect_all(algorithm, [batch])
    judged = judged_images(algorithm.config, rows_of_prompts(batch, GROUP), found.sampled)
    assert judged.valid is not None
    assert judged.valid.tolist() == [expected is not None]
    if expected:
        assert judged.children == ((expected[0],), (expected[1],))


def test_comparisons_of_a_judge_replace_the_scores_of_its_reward() -> None:
    # By scores image 0 is best; the judge prefers image 3 to all others, and finds 1 the worst.
    wins = {(0, 1): 0.9, (0, 2): 0.6, (0, 3): 0.2, (1, 2): 0.1, (1, 3): 0.0, (2, 3): 0.3}
    rewards = GivenRewards([[9.0, 0.0], [8.0, 0.0], [1.0, 0.0], [0.0, 0.0]], wins)
    algorithm = make(AffinePolicy(), *ONLINE, "algorithm.rank=win_rate", rewards=rewards)
    batch = groups(2)
    (found,) = collect_all(algorithm, [batch])
    judged = judged_images(algorithm.config, rows_of_prompts(batch, GROUP), found.sampled)
    assert judged.children == ((3, 3), (1, 1))


def test_all_images_are_submitted_before_the_first_reward_is_waited_for() -> None:
    rewards = GivenRewards([[float(child), 0.0] for child in range(GROUP)])
    algorithm = make(AffinePolicy(), *ONLINE, rewards=rewards)
    collect_all(algorithm, [groups(samples=(0, 1)), groups(samples=(2, 3))])
    assert rewards.events[:3] == ["submit", "submit", "wait"]


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("overrides", [(), (*STATES, "algorithm.sampler=reference", "algorithm.draws=2")])
def test_group_that_is_sampled_in_parts_has_the_images_of_the_whole_group(
    images: int, overrides: tuple[str, ...]
) -> None:
    found, calls, scored = {}, {}, {}
    for name, own in (("whole", ()), ("parts", (f"algorithm.images_per_pass={images}",))):
        policy, rewards = AffinePolicy(), PromptRewards()
        algorithm = make(policy, *ONLINE, *overrides, *own, rewards=rewards)
        found[name] = algorithm.phases[0].run(groups(), None).sampled
        calls[name] = [len(sigma) for sigma in policy.sigmas]
        scored[name] = rewards.submitted
    assert calls == {"whole": STEPS * [3 * GROUP], "parts": GROUP // images * STEPS * [3 * images]}
    torch.testing.assert_close(found["parts"].clean, found["whole"].clean, rtol=0, atol=0)
    for child in range(GROUP):
        torch.testing.assert_close(found["parts"].clean[GROUP + child], image(AffinePolicy(), 1, child))
    for one, other in zip(found["parts"].states or (), found["whole"].states or (), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    # One request for all images of the micro-batch, so that comparisons have whole groups.
    ((pixels, queries),) = scored["parts"]
    assert torch.equal(pixels, scored["whole"][0][0])
    assert queries == scored["whole"][0][1]


def test_reversed_orientation_prefers_the_worst_image() -> None:
    rewards = GivenRewards([[float(child), 0.0] for child in range(GROUP)])
    for orientation, expected in (("preferred", ((3,), (0,))), ("reversed", ((0,), (3,)))):
        algorithm = make(AffinePolicy(), *ONLINE, f"algorithm.orientation={orientation}", rewards=rewards)
        (found,) = collect_all(algorithm, [groups(1)])
        prompts = rows_of_prompts(groups(1), GROUP)
        assert judged_images(algorithm.config, prompts, found.sampled).children == expected


@pytest.mark.parametrize(
    ("overrides", "roles"),
    [
        ((), ["policy", "reference"]),
        (("algorithm.sampler=reference",), ["reference", "reference"]),
        (("algorithm.sampler=reference", "algorithm.reference={refresh: 2}"), ["old", "old"]),
        (("algorithm.loss=mapo",), ["policy"]),
    ],
)
def test_images_are_sampled_with_the_weights_of_the_sampler(overrides: tuple[str, ...], roles: list[str]) -> None:
    algorithm = make(AffinePolicy(), *ONLINE, *overrides)
    assert [phase.role for phase in algorithm.phases] == roles
    assert algorithm.config.roles == set(roles) - {"policy"}


def test_coupling_rollout_mixes_each_image_with_the_noise_that_it_was_sampled_from() -> None:
    policy, batch = AffinePolicy(), groups()
    algorithm = make(policy, *ONLINE, "algorithm.coupling=rollout")
    (found,) = collect_all(algorithm, [batch])
    prompts = rows_of_prompts(batch, GROUP)
    points = algorithm.points(prompts, judged_images(algorithm.config, prompts, found.sampled), 0)
    for side, at in enumerate(points):
        for sample in range(3):
            child = ranked(policy, sample)[side]
            tokens, target = mixed(image(policy, sample, child)[None], start(sample, child)[None], at.sigma[[sample]])
            torch.testing.assert_close(at.tokens[[sample]], tokens, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(at.target[[sample]], target, rtol=1e-6, atol=1e-6)


def test_coupling_states_has_states_of_the_rollouts_and_their_velocities() -> None:
    policy, batch = AffinePolicy(), groups()
    algorithm = make(policy, *ONLINE, *STATES, "algorithm.sampler=reference", "algorithm.draws=2")
    (found,) = collect_all(algorithm, [batch])
    prompts = rows_of_prompts(batch, GROUP)
    sigmas = grid(STEPS)
    for draw in range(2):
        points = algorithm.points(prompts, judged_images(algorithm.config, prompts, found.sampled), draw)
        for side, at in enumerate(points):
            for sample in range(3):
                child = ranked(policy, sample)[side]
                step = min(range(STEPS), key=lambda k: abs(sigmas[k] - at.sigma[sample].item()))
                state = points_by_hand(policy, start(sample, child)[None], sigmas)[step][0]
                torch.testing.assert_close(at.tokens[sample], state, rtol=1e-9, atol=1e-9)
                velocity = (policy.slope * state + policy.offset).detach()
                torch.testing.assert_close(at.target[sample], velocity, rtol=1e-6, atol=1e-9)


def test_self_play_prefers_real_images_to_those_of_the_opponent() -> None:
    policy, batch = AffinePolicy(), real()
    algorithm = make(policy, *SELF_PLAY, "algorithm.reference={refresh: 5}", "algorithm.sampler=reference")
    assert {phase.role for phase in algorithm.phases} == {"old"}
    assert batch.images is not None
    opponents = torch.stack([image(policy, sample, 0) for sample in range(3)])
    (found,) = collect_all(algorithm, [batch])
    points = algorithm.points(batch, judged_images(algorithm.config, batch, found.sampled), 0)
    noise = algorithm.noise(batch, "pair_noise", 0)
    at = [mixed(clean, noise, points[0].sigma) for clean in (batch.images[:, 0], opponents)]
    before = [error(policy, *each).detach() for each in at]
    moved(policy)
    (output,) = [loss() for loss in algorithm.losses(batch, found)]
    output.loss.backward()
    margin = (before[0] - error(policy, *at[0])) - (before[1] - error(policy, *at[1]))
    check(policy, -logsigmoid(BETA / 2 * margin).mean())


@pytest.mark.parametrize("distance", [0.0, 0.02, 0.2])
def test_dro_is_fine_tuning_on_real_images_until_their_gain_exceeds_a_margin(distance: float) -> None:
    """The opponent's target is the policy's own velocity, so its error and gradient are 0, whatever the reference."""
    policy, batch = AffinePolicy(), real(16)
    own = ("algorithm.loss=hinge", "algorithm.margin=0.05", "algorithm.reference={refresh: 3}")
    algorithm = make(policy, *SELF_PLAY, *STATES, *own)
    # The reference is older weights: the phases of the policy and of the reference have different parameters.
    sampling, asking = algorithm.phases
    found = sampling.run(batch, None)
    moved(policy, -distance)
    found = asking.run(batch, found)
    points = algorithm.points(batch, judged_images(algorithm.config, batch, found.sampled), 0)
    reference = [error(policy, at.tokens, at.target).detach() for at in points]
    moved(policy, distance)
    (found,) = algorithm.settle([(batch, found)], lambda value: [value])
    (output,) = [loss() for loss in algorithm.losses(batch, found)]
    output.loss.backward()
    first = error(policy, points[0].tokens, points[0].target)
    # Gain of the real image, and the squared distance of the velocities of both weights at the opponent's state.
    active = reference[0] - first.detach() - reference[1] < 0.05
    check(policy, (active.double() * first).mean())
    assert output.metrics["error/other"].max() < 1e-12
    assert active.all() == (distance < 0.2)
    assert active.any()
    torch.testing.assert_close(output.metrics["gain/other"], reference[1], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("weights", ["soft_labels", "confidence"])
def test_temperature_turns_gaps_of_rewards_into_probabilities(weights: str) -> None:
    policy, batch = AffinePolicy(), groups()
    plain = make(policy, *ONLINE)
    algorithm = make(policy, *ONLINE, f"algorithm.weights={weights}", "algorithm.temperature=0.5")
    (found,) = collect_all(algorithm, [batch])
    moved(policy)
    (known,) = [loss() for loss in plain.losses(batch, found)]
    (output,) = [loss() for loss in algorithm.losses(batch, found)]
    logit, gap = BETA / 2 * known.metrics["preference/margin"], known.metrics["preference/gap"]
    chance = 1 / (1 + torch.exp(-gap / 0.5))
    expected = -chance * logsigmoid(logit) - (1 - chance) * logsigmoid(-logit)
    if weights == "confidence":
        expected = (2 * chance - 1) * -logsigmoid(logit)
    torch.testing.assert_close(output.metrics["loss/preference"], expected, rtol=1e-5, atol=1e-7)


def test_confidence_of_a_gap_is_that_of_the_bradley_terry_model() -> None:
    gap = torch.tensor([-1.0, 0.0, 0.3, 50.0], dtype=torch.float64)
    probability = torch.sigmoid(gap.clamp(min=0) / 0.4)
    torch.testing.assert_close(confidence_of_gap(gap, 0.4), 2 * probability - 1)
    assert confidence_of_gap(gap, None).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("overrides", [(), (*STATES, "algorithm.sampler=reference"), ("algorithm.coupling=rollout",)])
def test_update_does_not_depend_on_the_number_of_workers(overrides: tuple[str, ...]) -> None:
    whole, divided = AffinePolicy(), AffinePolicy()
    batches = [groups(samples=(first, first + 1)) for first in (0, 2, 4)]
    for policy, order in ((whole, (0, 1, 2)), (divided, (2, 0, 1))):
        algorithm = make(policy, *ONLINE, "algorithm.draws=2", *overrides)
        found = collect_all(algorithm, [batches[index] for index in order])
        moved(policy)
        for index, each in zip(order, found, strict=True):
            for output in algorithm.losses(batches[index], each):
                (output().loss / 3).backward()
    for one, other in ((whole.slope, divided.slope), (whole.offset, divided.offset)):
        assert one.grad is not None
        assert other.grad is not None
        assert one.grad.abs().max() > 0
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=1e-14)


def test_first_update_has_no_gain() -> None:
    algorithm, batch = make(AffinePolicy(), *ONLINE), groups(update=0)
    (found,) = collect_all(algorithm, [batch])
    (output,) = [loss() for loss in algorithm.losses(batch, found)]
    assert output.loss.item() == pytest.approx(torch.log(torch.tensor(2.0)).item())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((*ONLINE, "rewards.models=[]"), "at least one model in rewards.models"),
        (("algorithm.source=online", "algorithm.group_size=1"), "greater than or equal to 2"),
        ((*ONLINE, "algorithm.images_per_pass=3"), "expected images_per_pass to divide group_size = 4, got 3"),
        ((*SELF_PLAY, "algorithm.images_per_pass=1"), "expected source online with images_per_pass"),
        (
            (*ONLINE, "algorithm.images_per_pass=2", "rollout.batch_size=32"),
            "expected no rollout.batch_size with algorithm.images_per_pass, got 32",
        ),
        ((*ONLINE, "data.pairs=small_world:pairs"), "data.pairs to be unset"),
        ((*ONLINE, "data.images=small_world:realistic"), "data.images to be unset"),
        ((*ONLINE, "algorithm.select=vote", "algorithm.min_gap=0.1"), "no min_gap with select=vote"),
        ((*ONLINE, "algorithm.select=vote", "algorithm.temperature=1"), "no temperature with select=vote"),
        ((*ONLINE, *STATES), "sampler=reference with coupling=states and source=online"),
        ((*ONLINE, "algorithm.weights=soft_labels"), "set temperature"),
        ((*ONLINE, "algorithm.temperature=1"), "weights confidence or soft_labels with temperature"),
        ((*ONLINE, "algorithm.captions=own"), "its images have one caption"),
        ((*ONLINE, "algorithm.loss=mapo", "algorithm.sampler=reference"), "expected a reference with sampler"),
        ((*ONLINE, "rollout.reuse=2"), "on-policy rollouts"),
        (("algorithm.source=self_play",), "expected data.images with algorithm.source=self_play"),
        ((*SELF_PLAY, "data.image_ratio=0.5"), "data.image_ratio=1"),
        ((*SELF_PLAY, "algorithm.loss=sft"), "nothing would have to be sampled"),
        ((*SELF_PLAY, "algorithm.min_gap=0.5"), "expected source online with min_gap"),
        ((*SELF_PLAY, "algorithm.weights=confidence"), "all pairs have the same confidence"),
        (("data.pairs=small_world:pairs", *STATES), "images of files have no rollout"),
        (("data.pairs=small_world:pairs", "algorithm.group_size=4"), "expected source online with group_size"),
        (("data.pairs=small_world:pairs", "algorithm.sampler=policy"), "expected source online or self_play"),
        ((*SELF_PLAY, "algorithm.coupling=states"), "expected sigma.type=grid"),
        ((*ONLINE, "algorithm.confidence_slope=10"), "all pairs have the same confidence"),
        ((*ONLINE, "algorithm.loss=contrastive"), "expected source=pairs, labels or captions with loss=contrastive"),
        (
            (*ONLINE, "algorithm.coupling=inverted", "algorithm.sigma={type: grid}"),
            "expected source=pairs or labels with coupling=inverted",
        ),
        (
            ("data.pairs=small_world:pairs", "algorithm.weights=soft_labels", "algorithm.loss=ipo"),
            "expected loss=dpo and no label_smoothing",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else value[-1],
)
def test_settings_that_do_not_fit_are_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_run([SMALL_WORLD], ["algorithm.type=preference", *overrides])


def test_win_rates_of_several_rewards_are_not_summed() -> None:
    settings = {"source": "online", "rank": "win_rate"}
    PreferenceConfig.model_validate(settings).check_comparisons(["judge"], 1)
    PreferenceConfig.model_validate({**settings, "select": "vote"}).check_comparisons(["judge"], 2)
    with pytest.raises(ValueError, match="expected select=vote or dominance with rank=win_rate and 2 rewards"):
        PreferenceConfig.model_validate(settings).check_comparisons(["judge"], 2)


def test_rounding_at_states_of_the_rollout_is_compared_with_the_velocity() -> None:
    policy, batch = AffinePolicy(), groups(2)
    batch = replace(batch, draws=replace(batch.draws, update=0))
    algorithm = make(policy, *ONLINE, *STATES, "algorithm.sampler=reference", "algorithm.beta=1e5")
    (found,) = collect_all(algorithm, [batch])
    changed = {role: errors + 1e-6 for role, errors in found.errors.items()}
    list(algorithm.losses(batch, replace(found, errors=changed)))
    changed = {role: errors + 1.0 for role, errors in found.errors.items()}
    with pytest.raises(ValueError, match="expected a reference that equals the policy"):
        list(algorithm.losses(batch, replace(found, errors=changed)))


def test_self_play_needs_no_reward() -> None:
    config = load_run([SMALL_WORLD], ["algorithm.type=preference", *SELF_PLAY, "rewards.models=[]"])
    assert config.rewards.models == ()
    assert config.samples_rollouts

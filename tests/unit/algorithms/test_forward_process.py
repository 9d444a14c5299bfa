"""Forward-process methods: points, roles, optimizer steps, gradients by hand, and refused settings."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms import Algorithm, Batch, build_algorithm
from srpo_ray.algorithms.forward_process import FinishedImages
from srpo_ray.config import load_run
from srpo_ray.config.algorithms.forward_process import OldDecay
from srpo_ray.config.algorithms.registry import TYPES
from tests.conftest import SMALL_WORLD
from tests.helpers.algorithms.stand_ins import (
    ELEMENTS,
    SHAPE,
    AffinePolicy,
    PromptRewards,
    collect_all,
    drawn_noise,
    grid,
    make_batch,
    settle_on_workers,
)

METHODS = ("awm", "diffusion_nft", "raft", "crd")
GROUP, STEPS, POINTS = 4, 8, 4
BATCH = make_batch(children=range(GROUP))
PLAIN_ANCHOR = "algorithm.anchor={reference: 0, old: 0}"


def make(kind: str, policy: AffinePolicy, *overrides: str) -> Any:
    own = (f"algorithm.type={kind}", f"algorithm.group_size={GROUP}", f"rollout.num_steps={STEPS}")
    config = load_run([SMALL_WORLD], [*own, "rollout.guidance_scale=2", *overrides])
    return build_algorithm(config, cast(Any, policy), cast(Any, PromptRewards()))


def back_propagate(algorithm: Algorithm[Any], batch: Batch, collected: Any, parts: int = 1) -> list[Any]:
    outputs = [loss() for part in range(parts) for loss in algorithm.losses(batch, collected, part)]
    torch.stack([output.loss for output in outputs]).sum().backward()
    return outputs


def points_by_hand(images: FinishedImages, index: int, parts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise of a point from its address, and the sigmas that it may have."""
    noise = drawn_noise_of_images("forward", index)
    first, last = STEPS * index // parts, STEPS * (index + 1) // parts
    return noise, noise - images.clean, torch.tensor(grid(STEPS)[first:last], dtype=torch.float64)


def drawn_noise_of_images(purpose: str, *address: int) -> Tensor:
    """Noise of every image at the address `(1, sample, child, *address)`."""
    rows = [drawn_noise(3, purpose, child, *address) for child in range(GROUP)]
    return torch.stack(rows, dim=1).flatten(0, 1)


@pytest.mark.parametrize("kind", METHODS)
def test_images_start_from_noises_of_their_own_and_go_through_the_whole_grid(kind: str) -> None:
    policy = AffinePolicy()
    algorithm = make(kind, policy)
    (images,) = collect_all(algorithm, [BATCH])
    noise = drawn_noise_of_images("rollout")
    expected = policy.integrate(noise, BATCH.conditioning, algorithm.sigmas, 2.0)
    torch.testing.assert_close(images.clean, expected, rtol=1e-12, atol=1e-12)
    assert policy.thresholds == [None]
    assert not images.clean.requires_grad


def test_points_mix_images_with_addressed_noise_at_sigmas_of_their_part_of_the_grid() -> None:
    policy = AffinePolicy()
    algorithm = make("raft", policy)
    (images,) = collect_all(algorithm, [BATCH])
    for index in range(POINTS):
        noise, target, allowed = points_by_hand(images, index, POINTS)
        point = algorithm.point(BATCH, images, index)
        assert torch.isin(point.sigma, algorithm.sigmas).all()
        assert ((point.sigma[:, None] - allowed).abs().min(dim=1).values < 1e-9).all()
        assert len(set(point.sigma.tolist())) == 2, "images of a batch have sigmas of their own"
        sigma = point.sigma[:, None, None]
        torch.testing.assert_close(point.tokens, (1 - sigma) * images.clean + sigma * noise, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(point.target, target, rtol=1e-12, atol=1e-12)


def test_all_points_are_all_sigmas_of_the_share_once() -> None:
    policy = AffinePolicy()
    algorithm = make("raft", policy, "algorithm.points=null", "algorithm.grid_share=0.7")
    (images,) = collect_all(algorithm, [BATCH])
    policy.sigmas.clear()
    list(algorithm.losses(BATCH, images))
    trained = torch.stack(policy.sigmas)
    # 70 % of eight sigmas are five, from pure noise on; sigma 0 is never a point.
    torch.testing.assert_close(trained[:, 0], torch.tensor(grid(STEPS)[:5], dtype=torch.float64))
    assert all(torch.equal(trained[:, row], trained[:, 0]) for row in range(trained.shape[1]))


def errors(policy: AffinePolicy, algorithm: Any, images: FinishedImages, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matching error at a point `[B]`, its gradient in the offset `[B, ...]`, and the sigmas."""
    point = algorithm.point(BATCH, images, index)
    residual = policy.slope.detach() * point.tokens + policy.offset.detach() - point.target
    return residual.pow(2).mean(dim=(1, 2)), 2 * residual / ELEMENTS, point.sigma


def advantages_of(images: FinishedImages) -> Tensor:
    groups = images.scores.total.split(GROUP)
    return torch.cat([(g - g.mean()) / g.std() for g in groups])


def column(values: Tensor) -> Tensor:
    return values[:, None, None]


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("awm", ("algorithm.weighting=plain", "algorithm.clip_range=null", "algorithm.advantage_scale=5")),
        ("awm", ("algorithm.weighting=plain", "algorithm.advantage_scale=5")),
        ("awm", ("algorithm.weighting=sigma",)),
        ("diffusion_nft", ()),
        ("raft", ()),
        ("raft", ("algorithm.best=2",)),
        ("crd", ()),
    ],
)
def test_gradient_of_an_update_is_a_weighted_gradient_of_the_errors(kind: str, overrides: tuple[str, ...]) -> None:
    policy = AffinePolicy()
    algorithm = make(kind, policy, PLAIN_ANCHOR, "algorithm.points=2", "algorithm.grid_share=1", *overrides)
    (images,) = collect_all(algorithm, [BATCH])
    back_propagate(algorithm, BATCH, images)
    advantages, expected = advantages_of(images), torch.zeros(SHAPE, dtype=torch.float64)
    ranks = torch.cat([g.argsort(descending=True).argsort() for g in images.scores.total.split(GROUP)])
    for index in range(2):
        _, gradients, sigma = errors(policy, algorithm, images, index)
        point = algorithm.point(BATCH, images, index)
        residual = policy.slope.detach() * point.tokens + policy.offset.detach() - point.target
        weights = {
            "awm": advantages * (sigma / 5 if "algorithm.weighting=sigma" in overrides else 1),
            "diffusion_nft": advantages * sigma / residual.abs().mean(dim=(1, 2)),
            "raft": (ranks < len(overrides) + 1) * GROUP / (len(overrides) + 1),
            # (b (R - mean R) - r)^2 at R = 0, of R = q_old - q and r = A / 10.
            "crd": 2 * advantages / 10,
        }[kind]
        expected += (column(weights) * gradients).mean(dim=0) / 2
    torch.testing.assert_close(policy.offset.grad, expected, rtol=1e-7, atol=1e-12)


def test_gains_of_crd_are_centred_over_the_images_of_each_prompt() -> None:
    policy = AffinePolicy()
    algorithm = make("crd", policy, PLAIN_ANCHOR, "algorithm.points=1")
    sampling, asking = algorithm.phases
    with torch.no_grad():
        images = sampling.run(BATCH, None)
        policy.offset += 0.4
        images = asking.run(BATCH, images)
        policy.offset -= 0.4
    (images,) = algorithm.settle([(BATCH, images)], lambda value: [value])
    back_propagate(algorithm, BATCH, images)
    new, gradients, _ = errors(policy, algorithm, images, 0)
    policy.offset.data += 0.4
    old, *_ = errors(policy, algorithm, images, 0)
    gain = torch.cat([group - group.mean() for group in (old - new).split(GROUP)])
    weights = -2 * (gain - advantages_of(images) / 10)
    expected = (column(weights) * gradients).mean(dim=0)
    torch.testing.assert_close(policy.offset.grad, expected, rtol=1e-7, atol=1e-12)


def test_old_policy_of_awm_bounds_the_second_optimizer_step() -> None:
    policy = AffinePolicy()
    steps = ("algorithm.optimizer_steps=2", "algorithm.weighting=plain", "algorithm.clip_range=0.01")
    algorithm = make("awm", policy, PLAIN_ANCHOR, *steps)
    (images,) = collect_all(algorithm, [BATCH])
    assert set(images.velocities) == {"policy"}
    first = [loss() for loss in algorithm.losses(BATCH, images, 0)]
    assert len(first) == 2
    assert all(output.metrics["ratio/clip_fraction"].max() == 0 for output in first)
    with torch.no_grad():
        policy.offset += 0.5
    second = [loss() for loss in algorithm.losses(BATCH, images, 1)]
    assert len(second) == 2
    found = torch.cat([output.metrics["ratio/clip_fraction"] for output in second])
    assert found.mean() > 0.5
    # The points of both steps together are those of a single one.
    whole = make("awm", AffinePolicy(), PLAIN_ANCHOR)
    (others,) = collect_all(whole, [BATCH])
    once = [loss().metrics["forward/q"] for loss in whole.losses(BATCH, others)]
    assert torch.equal(once[0], first[0].metrics["forward/q"])
    assert torch.equal(once[2], first[1].metrics["forward/q"])


def test_anchor_of_awm_is_the_distance_at_its_own_points() -> None:
    gradients = {}
    for weight in (0.0, 3.0):
        policy = AffinePolicy()
        algorithm = make("awm", policy, f"algorithm.anchor={{old: {weight}}}")
        (images,) = collect_all(algorithm, [BATCH])
        calls = len(policy.calls)
        with torch.no_grad():
            policy.offset += 0.25
        outputs = back_propagate(algorithm, BATCH, images)
        assert len(policy.calls) == calls + POINTS, "the anchor needs no call with gradient of its own"
        gradients[weight] = policy.offset.grad
        if weight:
            torch.testing.assert_close(outputs[0].metrics["anchor/old"], torch.full((12,), 0.0625).double())
    expected = torch.full(SHAPE, 3 * 2 * 0.25 / ELEMENTS, dtype=torch.float64)
    assert gradients[0.0] is not None
    torch.testing.assert_close(gradients[3.0] - gradients[0.0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", METHODS)
def test_divided_groups_have_the_gradient_of_a_whole_one(kind: str) -> None:
    whole, divided = AffinePolicy(), AffinePolicy()
    algorithm = make(kind, whole)
    (images,) = collect_all(algorithm, [BATCH])
    back_propagate(algorithm, BATCH, images)
    algorithm = make(kind, divided, "algorithm.images_per_pass=2")
    batches = [make_batch(samples=[sample], children=part) for sample in range(3) for part in ((0, 1), (2, 3))]
    collected: list[Any] = [None] * len(batches)
    with torch.no_grad():
        for phase in algorithm.phases:
            collected = [phase.run(batch, before) for batch, before in zip(batches, collected, strict=True)]
    rounds = list(zip(batches, collected, strict=True))
    if kind == "crd":
        settled = [algorithm.settle(rounds, lambda value: [value])]
    else:
        settled = settle_on_workers(algorithm, [rounds[0::2], rounds[1::2]])
        batches = batches[0::2] + batches[1::2]
    for batch, found in zip(batches, [each for part in settled for each in part], strict=True):
        for loss in algorithm.losses(batch, found):
            (loss().loss / len(rounds)).backward()
    for found, expected in ((divided.offset.grad, whole.offset.grad), (divided.slope.grad, whole.slope.grad)):
        assert found is not None
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_old_weights_follow_as_published() -> None:
    assert [OldDecay().kept(update) for update in (0, 1, 100, 499, 501, 9999)] == [0, 0.001, 0.1, 0.499, 0.5, 0.5]
    second = OldDecay(start=75, ramp=0.0075, limit=0.999)
    assert [second.kept(update) for update in (0, 75, 76, 175, 400)] == [0, 0, 0.0075, 0.75, 0.999]
    algorithm = make("awm", AffinePolicy())
    assert algorithm.old_kept(200) == 0.2
    assert algorithm.old_kept(500) == 0.3


def test_roles_and_phases_are_those_that_the_settings_need() -> None:
    found = {
        (kind, anchor): [phase.role for phase in make(kind, AffinePolicy(), f"algorithm.anchor={anchor}").phases]
        for kind in METHODS
        for anchor in ("{old: 0}", "{old: 0, reference: 1}", "{old: 1}")
    }
    assert found == {
        ("awm", "{old: 0}"): ["policy"],
        ("awm", "{old: 0, reference: 1}"): ["policy", "reference"],
        ("awm", "{old: 1}"): ["policy", "old"],
        # The old weights sample.
        ("diffusion_nft", "{old: 0}"): ["old"],
        ("diffusion_nft", "{old: 0, reference: 1}"): ["old", "reference"],
        ("diffusion_nft", "{old: 1}"): ["old"],
        ("raft", "{old: 0}"): ["policy"],
        ("raft", "{old: 0, reference: 1}"): ["policy", "reference"],
        ("raft", "{old: 1}"): ["policy", "old"],
        ("crd", "{old: 0}"): ["policy", "old"],
        ("crd", "{old: 0, reference: 1}"): ["policy", "old", "reference"],
        ("crd", "{old: 1}"): ["policy", "old"],
    }


@pytest.mark.parametrize("kind", METHODS)
def test_rewards_need_no_gradient_and_sampling_may_skip_blocks(kind: str) -> None:
    assert TYPES[kind].needs.reward == "score"
    assert make(kind, AffinePolicy(), "rollout.cache_threshold=0.1") is not None


@pytest.mark.parametrize("kind", METHODS)
def test_equal_rewards_move_nothing_but_a_plain_regression(kind: str) -> None:
    policy = AffinePolicy()
    algorithm = make(kind, policy, PLAIN_ANCHOR, "algorithm.points=1")
    algorithm.rewards.submit = lambda images, _: cast(Any, Equal(len(images)))
    (images,) = collect_all(algorithm, [BATCH])
    back_propagate(algorithm, BATCH, images)
    assert policy.offset.grad is not None
    # A regression to own images is the only one with a gradient there: all weights are 1.
    assert (policy.offset.grad.abs().max().item() > 1e-12) == (kind == "raft")


class Equal:
    """Scores without differences."""

    def __init__(self, count: int) -> None:
        self.total = torch.full((count,), 0.7, dtype=torch.float64)
        self.raw: dict[str, Tensor] = {}

    def result(self) -> "Equal":
        return self


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["algorithm.type=awm", "algorithm.group_size=1"],
            r"group_size: .*greater than or equal to 2; got 1",
        ),
        (
            ["algorithm.type=awm", "algorithm.points=12"],
            r"algorithm.points of at most 10, .* rollout.num_steps=12 and algorithm.grid_share=0.9, got 12; lower",
        ),
        (["algorithm.type=raft", "algorithm.points=13"], r"algorithm.points of at most 12, .* got 13"),
        (["algorithm.type=awm", "algorithm.optimizer_steps=3"], r"optimizer_steps to divide the 4 points .* got 3"),
        (["algorithm.type=crd", "algorithm.optimizer_steps=2"], r"optimizer_steps=1 with crd, got 2"),
        (["algorithm.type=raft", "algorithm.best=12"], r"algorithm.best below algorithm.group_size = 12, got 12"),
        (["algorithm.type=awm", "algorithm.anchor.data=1"], r"expected anchor.data = 0 with a forward-process method"),
        (["algorithm.type=awm", "algorithm.anchor.ema=1"], r"expected training.ema with algorithm.type=awm"),
        (["algorithm.type=awm", "algorithm.weighting=snr"], r"algorithm.weighting: expected to be 'plain', "),
        (["algorithm.type=awm", "rollout.reuse=2"], r"rollout.reuse=1 with algorithm.type=awm, got reuse=2"),
        (
            ["algorithm.type=awm", "data.images=small_world:realistic"],
            r"data.images to be unset with .*=awm",
        ),
        (["algorithm.type=diffusion_nft", "algorithm.old_decay.limit=1"], r"old_decay.limit: .*less than 1; got 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_run([SMALL_WORLD], overrides)

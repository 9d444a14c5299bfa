"""Anchors: renoised points, their loss and gradient by hand, and the calls of every algorithm with anchors."""

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms import build_algorithm
from srpo_ray.algorithms.anchor import AnchoredAlgorithm, anchor_losses
from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.config.algorithms.registry import TYPES
from srpo_ray.flow import renoise
from srpo_ray.planning.schedule import schedule
from srpo_ray.planning.workload import replica_work, worker_work
from tests.conftest import SMALL_WORLD
from tests.helpers.algorithms.stand_ins import (
    ELEMENTS,
    SHAPE,
    AffinePolicy,
    PromptRewards,
    collect_all,
    make_batch,
)
from tests.helpers.algorithms.variants import GIVEN, MIXED
from tests.helpers.training.algorithm_checks import count

REFERENCE = {"algorithm.anchor.reference": 0.5}
REAL = ("data.images=small_world:realistic",)
PLAIN = ("algorithm.query=plain", "algorithm.branches=[denoise]", "algorithm.noise=per_sample", "algorithm.hinge=100")


@pytest.mark.parametrize(("here", "there"), [(0.0, 0.7), (0.2, 0.2), (0.3, 0.9), (0.5, 1.0), (1.0, 1.0)])
def test_renoised_point_has_the_clean_part_and_the_noise_of_its_sigma(here: float, there: float) -> None:
    start, end = torch.tensor([here], dtype=torch.float64), torch.tensor([there], dtype=torch.float64)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    # The function is linear, so one input at a time gives the factor of each.
    clean = renoise((1 - here) * one, zero, start, end).item()
    first, second = renoise(here * one, zero, start, end).item(), renoise(zero, one, start, end).item()
    assert clean == pytest.approx(1 - there, abs=1e-12)
    assert math.hypot(first, second) == pytest.approx(there, abs=1e-12)
    assert there > here or second == 0


def test_anchor_is_the_weighted_sum_of_the_squared_distances() -> None:
    velocity = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]], requires_grad=True)
    others: Any = {"reference": torch.zeros(2, 1, 2), "ema": torch.ones(2, 1, 2)}
    losses, metrics = anchor_losses(velocity, others, {"reference": 2.0, "ema": 0.5})
    assert losses.tolist() == [2 * 2.5 + 0.5 * 0.5, 0.5]
    assert metrics["anchor/reference"].tolist() == [2.5, 0.0]
    assert metrics["anchor/ema"].tolist() == [0.5, 1.0]


def make(overrides: tuple[str, ...], policy: AffinePolicy) -> Any:
    config = load_run([SMALL_WORLD], ["algorithm.type=srpo", *PLAIN, "rollout.num_steps=5", *overrides])
    return build_algorithm(config, cast(Any, policy), cast(Any, PromptRewards()))


def gradients(overrides: tuple[str, ...], moved: float) -> tuple[Tensor, AffinePolicy, Any, Any]:
    """Gradient in the offset, after the policy has moved away from the weights that the phases have shown."""
    policy = AffinePolicy()
    algorithm, batch = make(overrides, policy), make_batch(3)
    (collected,) = collect_all(algorithm, [batch])
    with torch.no_grad():
        policy.offset += moved
    outputs = [loss() for loss in algorithm.losses(batch, collected)]
    torch.stack([output.loss for output in outputs]).sum().backward()
    assert policy.offset.grad is not None
    return policy.offset.grad, policy, algorithm, outputs


def test_anchor_adds_the_gradient_of_the_distance_that_the_policy_has_moved() -> None:
    alone, *_ = gradients((), 0.25)
    anchored, _, algorithm, outputs = gradients(("algorithm.anchor.reference=3",), 0.25)
    assert isinstance(algorithm, AnchoredAlgorithm)
    # d/d offset of 3 * mean((offset - old offset)^2) at a distance of 0.25.
    expected = torch.full(SHAPE, 3 * 2 * 0.25 / ELEMENTS, dtype=torch.float64)
    torch.testing.assert_close(anchored - alone, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(outputs[-1].metrics["anchor/reference"], torch.full((3,), 0.0625, dtype=torch.float64))


def test_anchor_without_weight_leaves_the_algorithm_as_it_is() -> None:
    assert not isinstance(make((), AffinePolicy()), AnchoredAlgorithm)
    (collected,) = collect_all(make((), AffinePolicy()), [make_batch(3)])
    assert type(collected).__name__ == "Rollout"


def test_points_are_those_of_the_image_whatever_batch_it_is_in() -> None:
    sigmas = []
    for samples in ((0, 1, 2), (1,)):
        policy = AffinePolicy()
        algorithm, batch = make(("algorithm.anchor={reference: 1, sigmas: [0.3, 0.4]}",), policy), make_batch(1)
        batch = make_batch(samples=samples)
        (collected,) = collect_all(algorithm, [batch])
        list(algorithm.losses(batch, collected))
        assert torch.equal(policy.sigmas[-1], policy.sigmas[5]), "the reference was not asked at the policy's point"
        sigmas.append(policy.sigmas[-1])
    assert torch.equal(sigmas[0][1:2], sigmas[1])
    assert ((sigmas[0] >= 0.3) & (sigmas[0] < 0.4)).all()
    assert len(set(sigmas[0].tolist())) == 3


FROM_IMAGES = ("algorithm.type=refl", "algorithm.start=image", "data.image_ratio=1")


@pytest.mark.parametrize("overrides", [(*PLAIN, "data.image_ratio=0.5"), FROM_IMAGES], ids=["srpo", "refl"])
def test_data_anchor_is_the_flow_matching_loss_of_the_real_images_alone(overrides: tuple[str, ...]) -> None:
    policy = AffinePolicy()
    config = load_run([SMALL_WORLD], [*overrides, "data.images=small_world:realistic", "algorithm.anchor.data=2"])
    algorithm: Any = build_algorithm(config, cast(Any, policy), cast(Any, PromptRewards()))
    batch = make_batch(2)
    real = torch.arange(12.0, dtype=torch.float64).reshape(2, 1, *SHAPE)
    batch = type(batch)(batch.prompts, batch.conditioning, batch.draws, real, image_rows=(1,))
    (collected,) = collect_all(algorithm, [batch])
    *_, last = [loss() for loss in algorithm.losses(batch, collected)]
    _, sigma, noise = algorithm._point(batch, collected)
    tokens = (1 - sigma[1]) * real[1, 0] + sigma[1] * noise[1]
    target = noise[1] - real[1, 0]
    error = (policy.slope * tokens + policy.offset - target).pow(2).mean()
    assert last.loss.item() == pytest.approx(2 * error.item() / 2, rel=1e-9)
    assert last.metrics["anchor/data"].tolist() == pytest.approx([0.0, error.item()], rel=1e-9)


def anchored(tiny_run: RunConfig, kind: str, more: dict[str, object] | None = None) -> RunConfig:
    own = {"algorithm.type": kind, "rollout.num_steps": 10, "training.batch_size": 2}
    return apply(tiny_run, {**own, **REFERENCE, **(more or {})})


@pytest.mark.parametrize("kind", TYPES)
def test_every_algorithm_takes_an_anchor_whose_calls_are_planned(kind: str, tiny_run: RunConfig) -> None:
    config = anchored(tiny_run, kind, GIVEN.get(kind))
    plan, found = schedule(config), count(config, 0)
    assert "reference" in config.algorithm.roles
    assert found.losses == plan.gradients
    assert found.samples == plan.samples
    drawn = plan.forward % 1 or plan.chained != plan.mean_chained
    if not drawn:
        assert found.forward == plan.forward + plan.compared
        assert found.chained == pytest.approx(plan.mean_chained)


def test_reused_and_given_images_are_anchored_in_every_update(tiny_run: RunConfig) -> None:
    reused = anchored(tiny_run, "srpo", {"rollout.reuse": 5})
    assert schedule(reused).compared == 1
    assert schedule(reused).forward == 10 / 5
    mixed = anchored(tiny_run, "srpo", MIXED)
    assert count(mixed, 0).forward == schedule(mixed).forward + 1


def test_plan_counts_the_operations_and_copies_of_an_anchor(tiny_run: RunConfig) -> None:
    alone, with_anchor = apply(tiny_run, {"algorithm.type": "srpo"}), anchored(tiny_run, "srpo")
    alone = apply(alone, {"rollout.num_steps": 10, "training.batch_size": 2})
    sampled, gradient, decoded = worker_work(alone, (32,))
    more_sampled, more_gradient, still_decoded = worker_work(with_anchor, (32,))
    # One call more than ten without gradient, and one more than two with it; nothing more is decoded or scored.
    assert more_sampled.flops == pytest.approx(sampled.flops * 11 / 10)
    assert more_gradient.flops == pytest.approx(gradient.flops * 3 / 2)
    assert still_decoded == decoded
    assert replica_work(with_anchor, []) == replica_work(alone, [])
    assert schedule(with_anchor).scored == schedule(alone).scored


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm.anchor.ema=0.1"], r"expected training.ema with algorithm.type=srpo.*set training.ema to \{\}"),
        (["algorithm.anchor.old=0.1"], r"expected anchor.old = 0 .* got 0.1; .* set anchor.ema"),
        (["algorithm.anchor.data=0.1"], r"expected data.images with algorithm.anchor.data=0.1, got none"),
        (
            ["algorithm.anchor.data=0.1", *REAL, "data.image_ratio=0.5", "rollout.source=base_model"],
            r"got reuse=1 and source=base_model",
        ),
        (["algorithm.anchor.sigmas=[0.9, 0.1]"], r"0 < lowest < highest <= 1, got 0.9 and 0.1"),
        (["algorithm.anchor.reference=-1"], r"greater than or equal to 0"),
    ],
)
def test_anchor_that_cannot_act_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_run([SMALL_WORLD], overrides)

"""Preference optimization: points, gradients by hand and against plain autograd, roles, worker counts, refusals."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from srpo_ray.algorithms import Batch, build_algorithm
from srpo_ray.algorithms.base import LossOutput
from srpo_ray.algorithms.preference_sources import judged_images
from srpo_ray.config import load_run
from srpo_ray.models.conditioning import Conditioning
from tests.conftest import SMALL_WORLD
from tests.helpers.algorithms.stand_ins import (
    ELEMENTS,
    SHAPE,
    AffinePolicy,
    PromptRewards,
    collect_all,
    drawn_noise,
    make_batch,
)

BETA = 4.0
LABELS = ("algorithm.source=labels", "data.pairs=small_world:labels", "training.micro_batch_size=4")


def make(policy: AffinePolicy, *overrides: str) -> Any:
    own = ("algorithm.type=preference", "data.pairs=small_world:pairs", f"algorithm.beta={BETA}", "rollout.num_steps=8")
    config = load_run([SMALL_WORLD], [*own, *overrides])
    return build_algorithm(config, cast(Any, policy), cast(Any, PromptRewards()))


def pairs(size: int = 3, update: int = 1, *, samples: tuple[int, ...] | None = None, labelled: bool = False) -> Batch:
    """A micro-batch with images of each sample of an address of its own: the same in any micro-batch."""
    batch = make_batch(size, update, samples=samples)
    rows = list(batch.draws.samples)
    images = torch.stack(
        [torch.stack([image(sample, side) for side in range(1 if labelled else 2)]) for sample in rows]
    )
    confidence = torch.tensor([1.0, 0.5, 0.25, 0.75])[torch.tensor(rows) % 4]
    labels = torch.stack([(1 + confidence) / 2, (1 - confidence) / 2], dim=1)
    if labelled:
        labels = (confidence * torch.tensor([1.0, -1.0])[torch.tensor(rows) % 2])[:, None]
    return replace(batch, images=images, labels=labels, image_rows=tuple(range(len(rows))))


def image(sample: int, side: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(10 * sample + side)).double()


def moved(policy: AffinePolicy, amount: float = 0.2) -> None:
    """Move the policy away from where the reference was asked."""
    with torch.no_grad():
        policy.slope += amount
        policy.offset += amount * torch.arange(ELEMENTS).reshape(SHAPE)


def trained(policy: AffinePolicy, algorithm: Any, batch: Batch) -> list[LossOutput]:
    """Outputs of a micro-batch whose reference is the policy before it moved."""
    (found,) = collect_all(algorithm, [batch])
    moved(policy)
    outputs = [loss() for loss in algorithm.losses(batch, found)]
    torch.stack([output.loss for output in outputs]).sum().backward()
    return outputs


def errors_by_hand(policy: AffinePolicy, batch: Batch, algorithm: Any, *, independent: bool = False) -> list[Tensor]:
    """Errors of both sides, `[B]`, with the policy's present parameters and their graph."""
    assert batch.images is not None
    found = []
    for side, at in enumerate(algorithm.points(batch, judged_images(algorithm.config, batch), 0)):
        noise = drawn_noise(len(batch.prompts), "pair_noise", 0, *((side,) if independent else ()))
        s = at.sigma[:, None, None]
        clean = batch.images[:, side]
        velocity = policy.slope * ((1 - s) * clean + s * noise) + policy.offset
        found.append((velocity - (noise - clean)).pow(2).mean(dim=(1, 2)))
    return found


def expected_gradients(policy: AffinePolicy, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [policy.slope, policy.offset]))


def check(policy: AffinePolicy, expected: list[Tensor]) -> None:
    for parameter, gradient in zip((policy.slope, policy.offset), expected, strict=True):
        assert parameter.grad is not None
        assert gradient.abs().max() > 0
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-7, atol=1e-12)


def references(policy: AffinePolicy, batch: Batch, algorithm: Any) -> list[Tensor]:
    """Errors of the reference, which is the policy before `moved`."""
    with torch.no_grad():
        moved(policy, -0.2)
        found = errors_by_hand(policy, batch, algorithm)
        moved(policy)
    return found


@pytest.mark.parametrize("coupling", ["shared", "independent"])
def test_points_mix_both_images_with_noise_at_sigmas_of_the_sample(coupling: str) -> None:
    algorithm, batch = make(AffinePolicy(), f"algorithm.coupling={coupling}", "algorithm.draws=2"), pairs()
    assert batch.images is not None
    sigmas = []
    for draw in range(2):
        sides = algorithm.points(batch, judged_images(algorithm.config, batch), draw)
        for side, at in enumerate(sides):
            own = (side,) if coupling == "independent" else ()
            noise, s = drawn_noise(3, "pair_noise", draw, *own), at.sigma[:, None, None]
            clean = batch.images[:, side]
            torch.testing.assert_close(at.tokens, (1 - s) * clean + s * noise, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(at.target, noise - clean, rtol=1e-12, atol=1e-12)
        assert torch.equal(sides[0].sigma, sides[1].sigma) == (coupling == "shared")
        sigmas.append(sides[0].sigma)
    # The first draw has the lower half of the quantiles: below the median, 3 * 0.5 / (1 + 2 * 0.5).
    assert sigmas[0].max() < 0.75 < sigmas[1].min()


def test_gradient_of_dpo_is_that_of_plain_autograd() -> None:
    policy, batch = AffinePolicy(), pairs()
    algorithm = make(policy)
    (output,) = trained(policy, algorithm, batch)
    first, second = errors_by_hand(policy, batch, algorithm)
    r_first, r_second = references(policy, batch, algorithm)
    margin = (r_first - first) - (r_second - second)
    loss = -logsigmoid(BETA / 2 * margin).mean()
    assert output.loss.item() == pytest.approx(loss.item(), rel=1e-9)
    check(policy, expected_gradients(policy, loss))
    torch.testing.assert_close(output.metrics["preference/margin"], margin.detach())
    assert torch.equal(output.metrics["preference/accuracy"], (margin > 0).double())
    torch.testing.assert_close(output.metrics["gain/preferred"], (r_first - first).detach())
    torch.testing.assert_close(output.metrics["error/other"], second.detach())


def test_gradient_of_dpo_is_a_constant_weight_times_the_gradients_of_the_errors() -> None:
    policy, batch = AffinePolicy(), pairs()
    algorithm = make(policy)
    trained(policy, algorithm, batch)
    first, second = errors_by_hand(policy, batch, algorithm)
    r_first, r_second = references(policy, batch, algorithm)
    margin = (r_first - first - r_second + second).detach()
    weight = BETA / 2 * (1 - torch.sigmoid(BETA / 2 * margin))
    check(policy, expected_gradients(policy, (weight * (first - second)).mean()))


def test_margin_of_two_images_at_pure_noise_is_linear_in_the_velocity() -> None:
    policy, batch = AffinePolicy(), pairs()
    algorithm = make(policy, "algorithm.sigma={type: grid, window: [1.0e-3, 1.0]}", "rollout.num_steps=1")
    (output,) = trained(policy, algorithm, batch)
    first, second = algorithm.points(batch, judged_images(algorithm.config, batch), 0)
    assert (first.sigma == 1).all()
    assert torch.equal(first.tokens, second.tokens)
    velocity = (policy.slope * first.tokens + policy.offset).detach()
    moved(policy, -0.2)
    before = (policy.slope * first.tokens + policy.offset).detach()
    margin = 2 / ELEMENTS * ((velocity - before) * (first.target - second.target)).sum(dim=(1, 2))
    torch.testing.assert_close(output.metrics["preference/margin"], margin, rtol=1e-9, atol=1e-12)


def test_first_update_has_the_loss_of_an_undecided_preference() -> None:
    algorithm, batch = make(AffinePolicy()), pairs(update=0)
    (found,) = collect_all(algorithm, [batch])
    (output,) = [loss() for loss in algorithm.losses(batch, found)]
    assert output.loss.item() == pytest.approx(torch.log(torch.tensor(2.0)).item())


def test_reference_that_is_not_the_policy_is_refused_at_the_first_update() -> None:
    policy, batch = AffinePolicy(), pairs(update=0)
    algorithm = make(policy)
    (found,) = collect_all(algorithm, [batch])
    moved(policy)
    with pytest.raises(ValueError, match=r"equals the policy before the first update.*\{ema: 1.0\}"):
        [loss() for loss in algorithm.losses(batch, found)]


@pytest.mark.parametrize(
    ("beta", "factor", "sure", "refused"),
    [
        (1e-4, 1e4, [1.0, 1.0, 1.0], True),
        (1e-4, 1e4, [1e-6, 1e-6, 1.0], True),
        (BETA, 1.0, [1e-6, 1e-6, 1e-6], False),
        (BETA, 1.0, [1e-6, 1e-6, 1.0], True),
    ],
)
def test_reference_is_checked_with_the_slope_of_each_row(
    beta: float, factor: float, sure: list[float], refused: bool
) -> None:
    """The gains are of the size of 1, so a slope of `factor * confidence * beta / 2` near 0 makes them harmless."""
    policy, batch = AffinePolicy(), pairs(update=0)
    confidence = torch.tensor(sure, dtype=torch.float64)
    batch = replace(batch, labels=torch.stack([(1 + confidence) / 2, (1 - confidence) / 2], dim=1))
    algorithm = make(policy, f"algorithm.beta={beta}", f"algorithm.confidence_slope={factor}")
    (found,) = collect_all(algorithm, [batch])
    moved(policy)
    if not refused:
        assert len([loss() for loss in algorithm.losses(batch, found)]) == 1
        return
    with pytest.raises(ValueError, match="equals the policy before the first update"):
        [loss() for loss in algorithm.losses(batch, found)]


@pytest.mark.parametrize(
    ("overrides", "form"),
    [
        (("loss=ipo",), lambda a, b: (a - b - 1 / (2 * BETA)).pow(2)),
        (("loss=hinge", "margin=0.7"), lambda a, b: (0.7 - a + b).clamp(min=0)),
        (("loser_weight=0.1",), lambda a, b: -logsigmoid(BETA / 2 * (a - 0.1 * b))),
        (
            ("label_smoothing=0.2",),
            lambda a, b: -0.8 * logsigmoid(BETA / 2 * (a - b)) - 0.2 * logsigmoid(BETA / 2 * (b - a)),
        ),
        (
            ("doubt={temperature: 10, scale: 3}",),
            lambda a, b: -logsigmoid(BETA / 2 * (a - b)) / (1 + 10 * torch.sigmoid(-3 * BETA / 2 * (a - b)).detach()),
        ),
        (("orientation=reversed",), lambda a, b: -logsigmoid(BETA / 2 * (b - a))),
        (
            ("weights=confidence",),
            lambda a, b: torch.tensor([1.0, 0.5, 0.25]).double() * -logsigmoid(BETA / 2 * (a - b)),
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_losses_and_modifiers_have_the_gradient_of_their_formula(overrides: tuple[str, ...], form: Any) -> None:
    policy, batch = AffinePolicy(), pairs()
    plain = make(policy)
    algorithm = make(policy, *(f"algorithm.{each}" for each in overrides))
    (output,) = trained(policy, algorithm, batch)
    (first, second), (r_first, r_second) = errors_by_hand(policy, batch, plain), references(policy, batch, plain)
    loss = form(r_first - first, r_second - second).mean()
    assert output.loss.item() == pytest.approx(loss.item(), rel=1e-9)
    check(policy, expected_gradients(policy, loss))


def test_one_sided_runs_have_the_gradients_of_the_joint_loss_of_chats_up_to_its_shared_weight() -> None:
    """CHATS (arXiv 2502.12579) trains two models by `-log sigmoid(b (g_preferred + g_other))`, each gain by its own."""
    batch, policies = pairs(1), {"preferred": AffinePolicy(), "reversed": AffinePolicy()}
    gains = []
    for side, (orientation, policy) in enumerate(policies.items()):
        algorithm = make(policy, "algorithm.loser_weight=0", f"algorithm.orientation={orientation}")
        trained(policy, algorithm, batch)
        plain = make(policy)
        gains.append(references(policy, batch, plain)[side] - errors_by_hand(policy, batch, plain)[side])
    slope = BETA / 2
    both = slope * torch.stack(gains).sum(dim=0)
    joint, shared = -logsigmoid(both).mean(), torch.sigmoid(-both).detach()
    for policy, gain in zip(policies.values(), gains, strict=True):
        own = torch.sigmoid(-slope * gain).detach()
        of_joint = torch.autograd.grad(joint, [policy.slope, policy.offset], retain_graph=True)
        check(policy, [gradient * (own / shared).squeeze() for gradient in of_joint])


def test_mapo_and_sft_ask_no_reference() -> None:
    policy, batch = AffinePolicy(), pairs()
    algorithm = make(policy, "algorithm.loss=mapo", "algorithm.sft=10", "algorithm.curvature=0.5")
    (output,) = trained(policy, algorithm, batch)
    assert [gradient for gradient, *_ in policy.calls] == [True]
    first, second = errors_by_hand(policy, batch, algorithm)
    scores = [0.5 * e / torch.expm1(0.5 * e) for e in (first, second)]
    check(policy, expected_gradients(policy, (10 * first - logsigmoid(BETA * (scores[0] - scores[1]))).mean()))
    assert "gain/preferred" not in output.metrics
    policy = AffinePolicy()
    algorithm = make(policy, "algorithm.loss=sft")
    (output,) = trained(policy, algorithm, batch)
    assert policy.sigmas[0].shape == (3,), "other images cost no call"
    check(policy, expected_gradients(policy, errors_by_hand(policy, batch, algorithm)[0].mean()))
    assert output.metrics["error/other"].numel() == 0


@pytest.mark.parametrize("labelled", [False, True])
def test_kto_raises_liked_images_above_the_mean_gain_and_lowers_others(labelled: bool) -> None:
    policy, batch = AffinePolicy(), pairs(4, labelled=labelled)
    plain = make(AffinePolicy(), *LABELS, "algorithm.loss=sft") if labelled else make(policy)
    algorithm = make(policy, "algorithm.loss=kto", *(LABELS if labelled else LABELS[2:]))
    (output,) = trained(policy, algorithm, batch)
    errors, before = errors_by_hand(policy, batch, plain), references(policy, batch, plain)
    gains = torch.stack([r - e for r, e in zip(before, errors, strict=True)])
    signs = torch.tensor([[1.0], [-1.0]]).expand(2, 4).double()
    if labelled:
        signs = torch.tensor([[1.0, -1.0, 1.0, -1.0]]).double()
    baseline = gains.detach().mean().clamp(min=0)
    loss = (1 - torch.sigmoid(signs * BETA * (gains - baseline))).mean()
    assert output.loss.item() == pytest.approx(loss.item(), rel=1e-9)
    check(policy, expected_gradients(policy, loss))
    torch.testing.assert_close(output.metrics["gain/preferred"], gains.detach()[signs > 0])


@pytest.mark.parametrize(("orientation", "trained_rows"), [("preferred", [1, 0, 1, 0]), ("reversed", [0, 1, 0, 1])])
def test_labels_of_sft_train_liked_images_only_or_disliked_ones_if_reversed(
    orientation: str, trained_rows: list[float]
) -> None:
    policy, batch = AffinePolicy(), pairs(4, labelled=True)
    algorithm = make(policy, *LABELS, "algorithm.loss=sft", f"algorithm.orientation={orientation}")
    trained(policy, algorithm, batch)
    (errors,) = errors_by_hand(policy, batch, algorithm)
    check(policy, expected_gradients(policy, (errors * torch.tensor(trained_rows).double()).mean()))


def test_safeguard_leaves_the_preferred_image_its_share_of_the_descent_in_output_space() -> None:
    outputs = {}
    for share in (None, 0.0, 1.0):
        policy, batch = AffinePolicy(), pairs(64)
        limit = "null" if share is None else share
        algorithm = make(policy, "algorithm.loss=hinge", "algorithm.margin=1e6", f"algorithm.safeguard={limit}")
        (found,) = collect_all(algorithm, [batch])
        (loss,) = algorithm.losses(batch, found)
        compared = loss.args[2]
        velocities = compared.velocities
        for velocity in velocities:
            velocity.retain_grad()
        loss().loss.backward()
        outputs[share] = [velocity.grad * 64 for velocity in velocities]
        residuals = [
            2 / ELEMENTS * (velocity.detach() - at.target)
            for velocity, at in zip(velocities, compared.points, strict=True)
        ]
        torch.testing.assert_close(outputs[share][0], residuals[0])
        # The descent of both outputs, were they one.
        step = -(outputs[share][0] + outputs[share][1])
        descent = (step * residuals[0]).sum(dim=(1, 2))
        square = residuals[0].pow(2).sum(dim=(1, 2))
        assert (descent <= -(share or 0) * square + 1e-9).all() == (share is not None)
    torch.testing.assert_close(outputs[None][1], -residuals[1])


@pytest.mark.parametrize("space", ["image", "noise"])
def test_error_space_scales_errors_of_policy_and_reference(space: str) -> None:
    policy, batch = AffinePolicy(), pairs()
    algorithm = make(policy, f"algorithm.error_space={space}")
    (output,) = trained(policy, algorithm, batch)
    sigma = algorithm.points(batch, judged_images(algorithm.config, batch), 0)[0].sigma
    factor = sigma**2 if space == "image" else (1 - sigma) ** 2
    first, second = errors_by_hand(policy, batch, algorithm)
    r_first, r_second = references(policy, batch, algorithm)
    margin = factor * (r_first - first - r_second + second)
    torch.testing.assert_close(output.metrics["preference/margin"], margin.detach())
    check(policy, expected_gradients(policy, -logsigmoid(BETA / 2 * margin).mean()))


def test_several_draws_are_the_mean_of_their_losses() -> None:
    policy, batch = AffinePolicy(), pairs()
    algorithm = make(policy, "algorithm.draws=3", "algorithm.loss=sft")
    outputs = trained(policy, algorithm, batch)
    expected = torch.stack([output.metrics["error/preferred"].mean() for output in outputs]).mean()
    assert torch.stack([output.loss for output in outputs]).sum().item() == pytest.approx(expected.item())


def test_own_captions_are_those_of_the_second_image() -> None:
    policy, batch = AffinePolicy(), pairs()
    seen: list[list[float]] = []

    def velocity(tokens: Tensor, sigma: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        seen.append(conditioning.prompt_embeds.flatten().tolist())
        return tokens

    cast(Any, policy).velocity = velocity
    ones = Conditioning(torch.ones(3, 1, 1), torch.ones(3, 1))
    batch = replace(batch, other_conditioning=ones)
    for orientation, expected in (("preferred", [0.0] * 3 + [1.0] * 3), ("reversed", [1.0] * 3 + [0.0] * 3)):
        seen.clear()
        algorithm = make(policy, "algorithm.captions=own", f"algorithm.orientation={orientation}")
        (found,) = collect_all(algorithm, [batch])
        list(algorithm.losses(batch, found))
        assert seen == [expected[:3], expected[3:], expected]


def test_anchor_is_the_distance_at_the_points_of_both_images() -> None:
    gradients = {}
    for weight in (0.0, 3.0):
        policy, batch = AffinePolicy(), pairs()
        algorithm = make(policy, f"algorithm.anchor.reference={weight}", "algorithm.reference=none")
        (found,) = collect_all(algorithm, [batch])
        with torch.no_grad():
            policy.offset += 0.25
        outputs = [loss() for loss in algorithm.losses(batch, found)]
        outputs[0].loss.backward()
        gradients[weight] = policy.offset.grad
        if weight:
            torch.testing.assert_close(outputs[0].metrics["anchor/reference"], torch.full((3,), 0.0625).double())
    expected = torch.full(SHAPE, 3 * 2 * 0.25 / ELEMENTS, dtype=torch.float64)
    assert gradients[0.0] is not None
    torch.testing.assert_close(gradients[3.0] - gradients[0.0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_update_does_not_depend_on_the_number_of_workers(loss: str) -> None:
    whole, divided = AffinePolicy(), AffinePolicy()
    own = (f"algorithm.loss={loss}", "training.micro_batch_size=4", "algorithm.draws=2")
    batches = [pairs(samples=tuple(range(start, start + 4))) for start in (0, 4, 8)]
    # One worker with all micro-batches in order, and three workers with one each in another order.
    for policy, order in ((whole, (0, 1, 2)), (divided, (2, 0, 1))):
        algorithm = make(policy, *own)
        found = collect_all(algorithm, [batches[index] for index in order])
        moved(policy)
        for index, each in zip(order, found, strict=True):
            for output in algorithm.losses(batches[index], each):
                (output().loss / 3).backward()
    for one, other in ((whole.slope, divided.slope), (whole.offset, divided.offset)):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=1e-14)


def test_moving_references_keep_their_share_of_the_weights() -> None:
    def kept(reference: str) -> list[float]:
        algorithm = make(AffinePolicy(), f"algorithm.reference={reference}")
        assert {phase.role for phase in algorithm.phases} == {"policy", "old"}
        return [algorithm.old_kept(update) for update in range(6)]

    assert kept("{ema: 0.9}") == [0.9] * 6
    assert kept("{refresh: 3}") == [1, 1, 0, 1, 1, 0]


def test_metrics_by_noise_are_those_of_the_pairs_in_that_third() -> None:
    policy, batch = AffinePolicy(), pairs(40)
    algorithm = make(policy, "algorithm.sigma={type: uniform, shift: 1}")
    (output,) = trained(policy, algorithm, batch)
    sigma = algorithm.points(batch, judged_images(algorithm.config, batch), 0)[0].sigma
    margin = output.metrics["preference/margin"]
    for name, low, high in (("clean", 0, 1 / 3), ("middle", 1 / 3, 2 / 3), ("noisy", 2 / 3, 1)):
        inside = (sigma >= low) & (sigma < high)
        assert inside.any()
        assert torch.equal(output.metrics[f"preference/margin/{name}"], margin[inside])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.pairs=null",), "expected data.pairs with algorithm.type=preference"),
        (("algorithm.source=labels",), "expected loss kto, sft or contrastive with source=labels"),
        (("algorithm.loss=kto",), "training.micro_batch_size of at least 4"),
        (("algorithm.loss=mapo", "algorithm.reference=frozen"), "expected no reference with loss=mapo"),
        (("algorithm.loss=mapo", "algorithm.safeguard=0.9"), "with safeguard, got mapo"),
        (("algorithm.loss=hinge", "algorithm.label_smoothing=0.1"), "expected loss dpo with label_smoothing"),
        (("algorithm.anchor.old=0.1",), "only a moving reference keeps older weights"),
        (("algorithm.anchor.data=0.1",), "set sft"),
        (("algorithm.reference={ema: 0.9, refresh: 2}",), "expected one of ema and refresh"),
        (("rewards.models=[]", "evaluation.held_out=[]"), "evaluations need a score"),
        (("data.images=small_world:realistic",), "expected either images or pairs"),
        (("algorithm.type=srpo", "algorithm.beta=null"), "data.pairs to be unset"),
        (("rollout.reuse=2",), "expected rollout.source=policy and rollout.reuse=1"),
        (("rollout.batch_size=8",), "nothing is sampled"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value[-1],
)
def test_settings_that_do_not_fit_are_refused(overrides: tuple[str, ...], message: str) -> None:
    base = ["algorithm.type=preference", "data.pairs=small_world:pairs"]
    with pytest.raises(ValueError, match=message):
        load_run([SMALL_WORLD], [*base, *[each for each in overrides if each != "algorithm.beta=null"]])


def test_rewards_may_be_absent_only_where_updates_ask_none() -> None:
    config = load_run([SMALL_WORLD], ["algorithm.type=preference", "data.pairs=small_world:pairs", "rewards.models=[]"])
    assert config.rewards.models == ()
    with pytest.raises(ValueError, match=r"at least one model in rewards.models with algorithm.type=refl"):
        load_run([SMALL_WORLD], ["algorithm.type=refl", "rewards.models=[]"])

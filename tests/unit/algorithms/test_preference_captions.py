"""Preference of a right caption over a wrong one at one point of an image, and confidence as the slope."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from srpo_ray.algorithms import Batch
from srpo_ray.algorithms.preference_sources import judged_images
from srpo_ray.config import load_run
from tests.conftest import SMALL_WORLD
from tests.helpers.algorithms.preference_pairs import (
    BETA,
    CAPTIONS,
    CaptionPolicy,
    captions,
    check_gradients,
    judged_batch,
    make,
    moved,
    trained,
)
from tests.helpers.algorithms.stand_ins import drawn_noise

RIGHT, WRONG = captions(0.0, 0.5, -1.0), captions(1.0, 0.25, 2.0)


def errors(policy: CaptionPolicy, batch: Batch, sigma: Tensor, numbers: Tensor) -> Tensor:
    """Errors of the images with captions by hand, `[B]`."""
    assert batch.images is not None
    clean, noise = batch.images[:, 0], drawn_noise(len(batch.prompts), "pair_noise", 0)
    s = sigma[:, None, None]
    velocity = policy.slope * ((1 - s) * clean + s * noise) + policy.offset * (1 + numbers.double().reshape(-1, 1, 1))
    return (velocity - (noise - clean)).pow(2).mean(dim=(1, 2))


def margins(policy: CaptionPolicy, batch: Batch, sigma: Tensor) -> Tensor:
    """Margins of the right captions over the wrong ones, with the policy before `moved` as reference."""
    with torch.no_grad():
        moved(policy, -0.2)
        before = [errors(policy, batch, sigma, text.prompt_embeds) for text in (RIGHT, WRONG)]
        moved(policy)
    after = [errors(policy, batch, sigma, text.prompt_embeds) for text in (RIGHT, WRONG)]
    return before[0] - after[0] - before[1] + after[1]


def test_both_captions_are_compared_at_one_point_in_one_call_with_gradient() -> None:
    policy, batch = CaptionPolicy(), judged_batch(1, RIGHT, WRONG)
    algorithm = make(policy, *CAPTIONS)
    first, second = algorithm.points(batch, judged_images(algorithm.config, batch), 0)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    trained(policy, algorithm, batch)
    assert [(gradient, len(sigma)) for (gradient, *_), sigma in zip(policy.calls, policy.sigmas, strict=True)] == [
        (False, 3),
        (False, 3),
        (True, 6),
    ]


def test_equal_captions_have_the_margin_zero_and_no_gradient() -> None:
    policy, batch = CaptionPolicy(), judged_batch(1, RIGHT, RIGHT)
    (output,) = trained(policy, make(policy, *CAPTIONS), batch)
    assert output.metrics["gain/preferred"].abs().min() > 0
    assert (output.metrics["preference/margin"] == 0).all()
    for parameter in (policy.slope, policy.offset):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() < 1e-15


@pytest.mark.parametrize("orientation", ["preferred", "reversed"])
def test_gradient_of_captions_is_that_of_plain_autograd(orientation: str) -> None:
    policy, batch = CaptionPolicy(), judged_batch(1, RIGHT, WRONG)
    algorithm = make(policy, *CAPTIONS, f"algorithm.orientation={orientation}")
    (output,) = trained(policy, algorithm, batch)
    sigma = algorithm.points(batch, judged_images(algorithm.config, batch), 0)[0].sigma
    margin = margins(policy, batch, sigma) * (1 if orientation == "preferred" else -1)
    loss = -logsigmoid(BETA / 2 * margin).mean()
    assert output.loss.item() == pytest.approx(loss.item(), rel=1e-9)
    torch.testing.assert_close(output.metrics["preference/margin"], margin.detach())
    check_gradients(policy, loss)


def test_rows_of_captions_may_be_weighted_by_their_confidence() -> None:
    policy, batch = CaptionPolicy(), judged_batch(1, RIGHT, WRONG)
    confidence = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    batch = replace(batch, labels=confidence[:, None])
    algorithm = make(policy, *CAPTIONS, "algorithm.weights=confidence")
    trained(policy, algorithm, batch)
    sigma = algorithm.points(batch, judged_images(algorithm.config, batch), 0)[0].sigma
    check_gradients(policy, (confidence * -logsigmoid(BETA / 2 * margins(policy, batch, sigma))).mean())


def test_fine_tuning_on_captions_takes_the_right_one_and_the_wrong_one_if_reversed() -> None:
    for orientation, text in (("preferred", RIGHT), ("reversed", WRONG)):
        policy, batch = CaptionPolicy(), judged_batch(1, RIGHT, WRONG)
        algorithm = make(policy, *CAPTIONS, "algorithm.loss=sft", f"algorithm.orientation={orientation}")
        trained(policy, algorithm, batch)
        sigma = algorithm.points(batch, judged_images(algorithm.config, batch), 0)[0].sigma
        check_gradients(policy, errors(policy, batch, sigma, text.prompt_embeds).mean())


def test_confidence_as_slope_replaces_beta_for_each_row() -> None:
    policy, batch = CaptionPolicy(), judged_batch(1, RIGHT, WRONG)
    confidence = torch.tensor([1.0, 0.01, 0.001], dtype=torch.float64)
    batch = replace(batch, labels=confidence[:, None])
    algorithm = make(policy, *CAPTIONS, "algorithm.confidence_slope=10")
    (output,) = trained(policy, algorithm, batch)
    sigma = algorithm.points(batch, judged_images(algorithm.config, batch), 0)[0].sigma
    logit = 10 * confidence * BETA / 2 * margins(policy, batch, sigma)
    check_gradients(policy, -logsigmoid(logit).mean())
    assert torch.equal(output.metrics["preference/saturated"], (logit.abs() > 5).double())
    assert 0 < output.metrics["preference/saturated"].mean() < 1


def test_preference_of_one_half_has_no_gradient_with_confidence_as_slope() -> None:
    """The confidence of a pair is 2 p - 1, and its labels are p and 1 - p."""
    gradients = {}
    for likely in (0.5, 0.8):
        policy, batch = CaptionPolicy(), judged_batch(2, RIGHT)
        batch = replace(batch, labels=torch.tensor([[likely, 1 - likely]] * 3, dtype=torch.float64))
        (output,) = trained(policy, make(policy, "algorithm.confidence_slope=10"), batch)
        assert output.metrics["preference/margin"].abs().min() > 0
        assert policy.offset.grad is not None
        gradients[likely] = policy.offset.grad.abs().max().item()
    assert gradients[0.5] == 0
    assert gradients[0.8] > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("source=captions", "captions=own"), "expected captions=shared with source=captions, got own"),
        (("source=captions", "coupling=independent"), "expected coupling=shared with source=captions"),
        (("source=captions", "coupling=inverted"), "expected coupling=shared with source=captions, got inverted"),
        (("confidence_slope=10", "loss=hinge"), "expected loss dpo with confidence_slope, got hinge"),
        (("confidence_slope=10", "weights=confidence"), "both use the confidence of a row"),
        (("confidence_slope=0",), "confidence_slope"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_captions_and_slopes_that_do_not_fit_are_refused(overrides: tuple[str, ...], message: str) -> None:
    base = ["algorithm.type=preference", "data.pairs=small_world:captions"]
    with pytest.raises(ValueError, match=message):
        load_run([SMALL_WORLD], [*base, *(f"algorithm.{each}" for each in overrides)])

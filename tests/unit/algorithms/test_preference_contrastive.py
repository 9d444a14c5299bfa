"""Contrastive loss over captions: closed forms, plain loops in torch, worker counts, refusals."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from srpo_ray.algorithms import Batch
from srpo_ray.algorithms.forward_process import Point
from srpo_ray.algorithms.preference_contrastive import contrastive, contrastive_metrics, cross, own_rows
from srpo_ray.algorithms.preference_sources import judged_images
from srpo_ray.config import load_run
from tests.conftest import SMALL_WORLD
from tests.helpers.algorithms.preference_pairs import CaptionPolicy, captions, check_gradients, judged_batch, make
from tests.helpers.algorithms.stand_ins import collect_all, drawn_noise

RIGHT, WRONG = captions(0.0, 0.5, -1.0), captions(1.0, 0.25, 2.0)
LOSS = (
    "algorithm.loss=contrastive",
    "training.batch_size=6",
    "training.micro_batch_size=3",
    "algorithm.contrastive={temperature: 0.7, scale: 3}",
)


@pytest.mark.parametrize("size", [2, 5])
def test_equal_rows_have_the_logarithm_of_their_number_as_loss(size: int) -> None:
    errors = torch.linspace(0.1, 2, size, dtype=torch.float64)[:, None].expand(size, size)
    torch.testing.assert_close(contrastive(errors, 0.07, 4.0), torch.full((size,), math.log(size)).double())


def test_loss_is_the_cross_entropy_of_logits_that_fall_with_the_error() -> None:
    errors = torch.tensor([[0.0, 0.07], [1e9, 0.14]], dtype=torch.float64)
    expected = [math.log(1 + math.exp(4 / math.e - 4)), math.log(1 + math.exp(-4 / math.e**2))]
    assert contrastive(errors, 0.07, 4.0).tolist() == pytest.approx(expected)


def test_metrics_compare_the_own_caption_with_the_others() -> None:
    errors = torch.tensor([[1.0, 2.0, 6.0], [1.0, 3.0, 5.0], [7.0, 7.0, 7.0]])
    found = contrastive_metrics(errors)
    # A tie is no success.
    assert found["contrastive/accuracy"].tolist() == [1, 0, 0]
    assert found["contrastive/margin"].tolist() == [3, 0, 0]


def test_crossed_rows_have_every_image_with_every_caption() -> None:
    point = Point(torch.arange(3.0)[:, None, None], torch.arange(3.0), 10 + torch.arange(3.0)[:, None, None])
    found, text = cross(point, captions(0.0, 1.0, 2.0))
    assert found.tokens.flatten().tolist() == found.sigma.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found.target.flatten().tolist() == [10, 10, 10, 11, 11, 11, 12, 12, 12]
    assert text.prompt_embeds.flatten().tolist() == text.pooled_prompt_embeds.flatten().tolist() == [0, 1, 2] * 3
    assert own_rows(found.sigma, 3).tolist() == own_rows(text.prompt_embeds.flatten(), 3).tolist() == [0, 1, 2]


def matrix_by_loops(policy: CaptionPolicy, batch: Batch, sigma: float, numbers: Tensor) -> Tensor:
    """Errors of each image with each caption, one by one, at the noise of the first image."""
    assert batch.images is not None
    noise, rows = drawn_noise(1, "pair_noise", 0)[0], []
    for clean in batch.images[:, 0]:
        tokens = (1 - sigma) * clean + sigma * noise
        velocities = [policy.slope * tokens + policy.offset * (1 + number) for number in numbers.double().flatten()]
        rows.append(torch.stack([(velocity - (noise - clean)).pow(2).mean() for velocity in velocities]))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("overrides", "images", "texts"),
    [
        (("algorithm.source=captions", "data.pairs=small_world:captions"), 1, RIGHT),
        (("algorithm.source=captions", "data.pairs=small_world:captions", "algorithm.orientation=reversed"), 1, WRONG),
        ((), 2, RIGHT),
        (("algorithm.sft=10",), 2, RIGHT),
    ],
    ids=["captions", "reversed captions", "pairs", "pairs with sft"],
)
def test_gradient_is_that_of_a_plain_loop_over_images_and_captions(
    overrides: tuple[str, ...], images: int, texts: Any
) -> None:
    policy, batch = CaptionPolicy(), judged_batch(images, RIGHT, WRONG if images == 1 else None)
    algorithm = make(policy, *LOSS, *overrides)
    (found,) = collect_all(algorithm, [batch])
    (output,) = [loss() for loss in algorithm.losses(batch, found)]
    output.loss.backward()
    assert [(gradient, len(sigma)) for (gradient, *_), sigma in zip(policy.calls, policy.sigmas, strict=True)] == [
        (True, 9)
    ]
    (point,) = algorithm.points(batch, judged_images(algorithm.config, batch), 0)
    assert len(set(point.sigma.tolist())) == 1
    errors = matrix_by_loops(policy, batch, point.sigma[0].item(), texts.prompt_embeds)
    loss = cross_entropy(3 * torch.exp(-errors / 0.7), torch.arange(3))
    loss = loss + (10 * errors.diagonal().mean() if "algorithm.sft=10" in overrides else 0)
    assert output.loss.item() == pytest.approx(loss.item(), rel=1e-9)
    torch.testing.assert_close(output.metrics["error/preferred"], errors.diagonal().detach())
    check_gradients(policy, loss)


def test_disliked_images_are_no_part_of_the_loss_but_their_captions_are() -> None:
    policy, batch = CaptionPolicy(), judged_batch(1, RIGHT)
    batch = replace(batch, labels=torch.tensor([[1.0], [-1.0], [0.5]], dtype=torch.float64))
    algorithm = make(policy, *LOSS, "algorithm.source=labels", "data.pairs=small_world:labels")
    (found,) = collect_all(algorithm, [batch])
    (output,) = [loss() for loss in algorithm.losses(batch, found)]
    output.loss.backward()
    (point,) = algorithm.points(batch, judged_images(algorithm.config, batch), 0)
    errors = matrix_by_loops(policy, batch, point.sigma[0].item(), RIGHT.prompt_embeds)
    each = cross_entropy(3 * torch.exp(-errors / 0.7), torch.arange(3), reduction="none")
    check_gradients(policy, (each[0] + each[2]) / 3)


def test_anchor_is_at_the_points_of_the_images_with_their_own_captions() -> None:
    policy, batch = CaptionPolicy(), judged_batch(2, RIGHT)
    algorithm = make(policy, *LOSS, "algorithm.anchor.reference=3")
    (found,) = collect_all(algorithm, [batch])
    with torch.no_grad():
        policy.offset += 0.25
    (output,) = [loss() for loss in algorithm.losses(batch, found)]
    expected = (0.25 * (1 + RIGHT.prompt_embeds.double().flatten())) ** 2
    torch.testing.assert_close(output.metrics["anchor/reference"], expected)


def test_update_does_not_depend_on_the_order_of_micro_batches() -> None:
    whole, gradients, sigmas = judged_batch(2, captions(0.0, 0.5, -1.0, 1.0, 0.25, 2.0)), [], []
    assert whole.images is not None
    assert whole.labels is not None
    for order in ((0, 1), (1, 0)):
        policy = CaptionPolicy()
        algorithm = make(policy, *LOSS)
        for part in order:
            rows = slice(3 * part, 3 * part + 3)
            batch = replace(
                whole,
                prompts=whole.prompts[rows],
                conditioning=whole.conditioning[rows],
                draws=replace(whole.draws, samples=whole.draws.samples[rows], children=(0,) * 3),
                images=whole.images[rows],
                labels=whole.labels[rows],
                image_rows=(0, 1, 2),
            )
            (found,) = collect_all(algorithm, [batch])
            for loss in algorithm.losses(batch, found):
                (loss().loss / 2).backward()
        gradients.append(policy.offset.grad)
        sigmas.append({sigma[0].item() for sigma in policy.sigmas})
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-15)
    assert sigmas[0] == sigmas[1]
    assert len(sigmas[0]) == 2, "each micro-batch has a sigma of its own"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("training.micro_batch_size=1",), "training.micro_batch_size of at least 2 with algorithm.loss=contrastive"),
        (("training.micro_batch_size=null",), "micro_batch_size of at least 2 .* got None"),
        (("algorithm.coupling=independent",), "expected coupling=shared with loss=contrastive"),
        (("algorithm.reference=frozen",), "expected no reference with loss=contrastive"),
        (("algorithm.loss=dpo",), "expected loss=contrastive with contrastive, got dpo"),
        (("algorithm.safeguard=0.9",), "with safeguard, got contrastive"),
        (("algorithm.contrastive.temperature=0",), "temperature"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value[0],
)
def test_settings_that_do_not_fit_are_refused(overrides: tuple[str, ...], message: str) -> None:
    base = ["algorithm.type=preference", "data.pairs=small_world:pairs"]
    with pytest.raises(ValueError, match=message):
        load_run([SMALL_WORLD], [*base, *LOSS, *overrides])

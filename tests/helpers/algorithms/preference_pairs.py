"""Judged images, and a policy that reads captions, for tests of preferences."""

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from srpo_ray.algorithms import Batch, build_algorithm
from srpo_ray.algorithms.base import LossOutput
from srpo_ray.config import load_run
from srpo_ray.models.conditioning import Conditioning
from tests.conftest import SMALL_WORLD
from tests.helpers.algorithms.stand_ins import (
    ELEMENTS,
    SHAPE,
    AffinePolicy,
    PromptRewards,
    collect_all,
    make_batch,
)

BETA = 4.0
CAPTIONS = ("algorithm.source=captions", "data.pairs=small_world:captions")


class CaptionPolicy(AffinePolicy):
    """Velocity is `slope * tokens + offset * (1 + number)`, where the number is all that a caption says."""

    def velocity(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        number = conditioning.prompt_embeds.double().reshape(-1, 1, 1)
        return super().velocity(tokens, sigma, conditioning, guidance_scale) + self.offset * number


def make(policy: AffinePolicy, *overrides: str) -> Any:
    own = ("algorithm.type=preference", "data.pairs=small_world:pairs", f"algorithm.beta={BETA}", "rollout.num_steps=8")
    config = load_run([SMALL_WORLD], [*own, *overrides])
    return build_algorithm(config, cast(Any, policy), cast(Any, PromptRewards()))


def captions(*numbers: float) -> Conditioning:
    values = torch.tensor(numbers)
    return Conditioning(values[:, None, None], values[:, None])


def image(sample: int, side: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(10 * sample + side)).double()


def judged_batch(images: int, right: Conditioning, other: Conditioning | None = None, update: int = 1) -> Batch:
    """A micro-batch with one or two images of each row and its captions; labels are sure unless they are replaced."""
    size = len(right)
    batch = make_batch(size, update)
    clean = torch.stack([torch.stack([image(sample, side) for side in range(images)]) for sample in range(size)])
    labels = torch.tensor([[1.0, 0.0][:images]] * size, dtype=torch.float64)
    given = replace(batch, images=clean, labels=labels, image_rows=tuple(range(size)))
    return replace(given, conditioning=right, other_conditioning=other)


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


def check_gradients(policy: AffinePolicy, loss: Tensor) -> None:
    """Compare the gradients of both parameters with those of a loss by plain autograd."""
    parameters = (policy.slope, policy.offset)
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        assert parameter.grad is not None
        assert gradient.abs().max() > 0
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-7, atol=1e-12)

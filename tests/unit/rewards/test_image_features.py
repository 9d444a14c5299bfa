"""Memory of image features in front of an image encoder."""

import torch
from torch import Tensor

from srpo_ray.rewards.image_features import ImageFeatures


class Encoder:
    """Mean colour of each image; notes the batches that it encodes."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.mean((2, 3))


def batch(seed: int) -> Tensor:
    return torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_equal_images_are_encoded_once_and_others_anew() -> None:
    encoder = Encoder()
    features = ImageFeatures(encoder)
    for seed in (0, 1, 0, 1, 0):
        assert torch.equal(features.of(batch(seed)), batch(seed).mean((2, 3)))
    assert encoder.calls == 2
    one_pixel = batch(0)
    one_pixel[1, 2, 3, 3] += 1e-6
    for images in (one_pixel, batch(0)[:1], batch(0).double()):
        assert torch.equal(features.of(images), images.mean((2, 3)))
    assert encoder.calls == 5


@torch.no_grad()
def test_images_that_the_caller_changes_are_encoded_again() -> None:
    features = ImageFeatures(Encoder())
    images = batch(0)
    features.of(images)
    images.mul_(0.5)
    assert torch.equal(features.of(images), images.mean((2, 3)))


@torch.no_grad()
def test_only_the_latest_batches_are_kept() -> None:
    encoder = Encoder()
    features = ImageFeatures(encoder, capacity=2)
    for seed in (0, 1, 2, 0):
        features.of(batch(seed))
    assert encoder.calls == 4


def test_gradient_reaches_images_whose_features_are_known() -> None:
    encoder = Encoder()
    features = ImageFeatures(encoder)
    with torch.no_grad():
        features.of(batch(0))
    images = batch(0).requires_grad_()
    features.of(images).sum().backward()
    assert images.grad is not None
    assert torch.allclose(images.grad, torch.full_like(images, 1 / 16))
    assert encoder.calls == 2

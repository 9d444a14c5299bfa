import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from srpo_ray.rewards.framing import Framing
from srpo_ray.rewards.preprocess import frame, frame_for_each, normalize


def smooth_pictures(batch: int, height: int, width: int) -> Tensor:
    """Pictures without values near 0 or 1, where clamping would differ from PIL's float images."""
    generator = torch.Generator().manual_seed(0)
    return 0.2 + 0.6 * torch.rand(batch, 3, height, width, generator=generator)


def pil_resize(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """PIL's bicubic resize of a float picture `[3, H, W]` to (width, height), without rounding to 8 bits."""
    channels = [Image.fromarray(channel.numpy(), mode="F") for channel in picture]
    return torch.stack([torch.from_numpy(np.array(c.resize(size, Image.Resampling.BICUBIC))) for c in channels])


@pytest.mark.parametrize(("height", "width"), [(48, 48), (40, 64), (64, 41), (10, 13)])
def test_resize_agrees_with_pil_bicubic_to_2e_6(height: int, width: int) -> None:
    images = smooth_pictures(2, height, width)
    size, short = 16, min(height, width)
    resized_height, resized_width = int(size * height / short), int(size * width / short)
    top, left = round((resized_height - size) / 2), round((resized_width - size) / 2)

    for image, ours in zip(images, frame(images, Framing(size)), strict=True):
        expected = pil_resize(image, (resized_width, resized_height))
        expected = expected[:, top : top + size, left : left + size]
        assert (ours - expected).abs().max() < 2e-6


@pytest.mark.parametrize(("height", "width"), [(53, 78), (97, 64)])
def test_crop_is_the_one_of_torchvision(height: int, width: int) -> None:
    images = smooth_pictures(1, height, width)
    bicubic = v2.InterpolationMode.BICUBIC
    reference = v2.Compose([v2.Resize(24, interpolation=bicubic, antialias=True), v2.CenterCrop(24)])

    assert (frame(images, Framing(24)) - reference(images)).abs().max() < 1e-6


def test_picture_of_the_right_size_is_unchanged() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    assert torch.equal(frame(images, Framing(8)), images)


def test_overshoot_is_clamped_and_the_gradient_reaches_every_used_pixel() -> None:
    checkerboard = (torch.arange(20)[:, None] // 4 + torch.arange(20)[None] // 4) % 2
    images = checkerboard.float().expand(1, 3, 20, 20).clone().requires_grad_()

    resized = frame(images, Framing(32))
    resized.sum().backward()

    assert resized.min() == 0
    assert resized.max() == 1
    gradient = images.grad
    assert gradient is not None
    assert (gradient != 0).any()


def test_gradient_of_the_resize_equals_finite_differences() -> None:
    images = smooth_pictures(1, 7, 9).double().requires_grad_()

    assert torch.autograd.gradcheck(lambda x: frame(x, Framing(5)), images)


def test_each_size_is_computed_once_in_float32() -> None:
    resized = frame_for_each(torch.rand(2, 3, 16, 16).bfloat16(), [Framing(8), Framing(4), Framing(8)])

    assert {framing.size: tuple(t.shape) for framing, t in resized.items()} == {4: (2, 3, 4, 4), 8: (2, 3, 8, 8)}
    assert all(t.dtype == torch.float32 for t in resized.values())


def test_normalize_shifts_and_scales_each_channel() -> None:
    images = torch.full((1, 3, 2, 2), 0.5)

    normal = normalize(images, mean=(0.5, 0.25, 0.0), std=(0.1, 0.5, 2.0))

    assert normal[0, :, 0, 0].tolist() == pytest.approx([0.0, 0.5, 0.25])


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 1, 8, 8)])
def test_anything_but_a_batch_of_colour_pictures_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        frame(torch.zeros(shape), Framing(4))

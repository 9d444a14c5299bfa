from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Lambda, Resize, ToTensor, v2
from torchvision.transforms.functional import pad, resize, to_tensor
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from srpo_ray.config.rewards import Fit
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.models.pretrained import CLIP_STATISTICS
from srpo_ray.rewards.preprocess import frame, frame_for_each, frame_officially, normalize

BICUBIC = InterpolationMode.BICUBIC


def smooth_images(batch: int, height: int, width: int) -> Tensor:
    """Images without values near 0 or 1, where clamping would differ from PIL's float images."""
    generator = torch.Generator().manual_seed(0)
    return 0.2 + 0.6 * torch.rand(batch, 3, height, width, generator=generator)


def pil_resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """PIL's bicubic resize of a float image `[3, H, W]` to (width, height), without rounding to 8 bits."""
    channels = [Image.fromarray(channel.numpy(), mode="F") for channel in image]
    return torch.stack([torch.from_numpy(np.array(c.resize(size, Image.Resampling.BICUBIC))) for c in channels])


@pytest.mark.parametrize(("height", "width"), [(48, 48), (40, 64), (64, 41), (10, 13)])
def test_resize_agrees_with_pil_bicubic_to_2e_6(height: int, width: int) -> None:
    images = smooth_images(2, height, width)
    size, short = 16, min(height, width)
    resized_height, resized_width = int(size * height / short), int(size * width / short)
    top, left = round((resized_height - size) / 2), round((resized_width - size) / 2)

    for image, ours in zip(images, frame(images, InputSpec(size)), strict=True):
        expected = pil_resize(image, (resized_width, resized_height))
        expected = expected[:, top : top + size, left : left + size]
        assert (ours - expected).abs().max() < 2e-6


@pytest.mark.parametrize(("height", "width"), [(53, 78), (97, 64)])
def test_crop_is_the_one_of_torchvision(height: int, width: int) -> None:
    images = smooth_images(1, height, width)
    bicubic = v2.InterpolationMode.BICUBIC
    reference = v2.Compose([v2.Resize(24, interpolation=bicubic, antialias=True), v2.CenterCrop(24)])

    assert (frame(images, InputSpec(24)) - reference(images)).abs().max() < 1e-6


@pytest.mark.parametrize(("height", "width"), [(48, 48), (40, 64), (64, 41), (10, 13), (9, 60)])
def test_padding_and_squashing_agree_with_pil_bicubic_to_2e_6(height: int, width: int) -> None:
    images = smooth_images(1, height, width)
    scale = 16 / max(height, width)
    inner = (round(width * scale), round(height * scale))
    left, top = (16 - inner[0]) // 2, (16 - inner[1]) // 2
    padded = torch.zeros(3, 16, 16)
    padded[:, top : top + inner[1], left : left + inner[0]] = pil_resize(images[0], inner)

    assert (frame(images, InputSpec(16, "pad"))[0] - padded).abs().max() < 2e-6
    assert (frame(images, InputSpec(16, "squash"))[0] - pil_resize(images[0], (16, 16))).abs().max() < 2e-6


def images_of_8_bits(height: int, width: int) -> tuple[Tensor, Image.Image]:
    """The same image of sharp noise as a tensor and in PIL."""
    generator = torch.Generator().manual_seed(2)
    steps = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return steps.permute(2, 0, 1)[None].float() / 255, Image.fromarray(steps.numpy())


def hpsv2_transform(size: int, *, antialias: bool = True) -> Callable[[Image.Image], Any]:
    """HPSv2's evaluation transform in torchvision's functions: a float tensor first, then the longest side to `size`.

    torchvision before 0.17 resized tensors as it does today with antialias=False.
    """

    def resize_longest(tensor: Tensor) -> Tensor:
        height, width = tensor.shape[-2:]
        if max(height, width) == size:
            return tensor
        scale = size / max(height, width)
        return resize(tensor, [round(height * scale), round(width * scale)], BICUBIC, antialias=antialias)

    def pad_with_black(tensor: Tensor) -> Tensor:
        rest_h, rest_w = size - tensor.shape[-2], size - tensor.shape[-1]
        return pad(tensor, [rest_w // 2, rest_h // 2, rest_w - rest_w // 2, rest_h - rest_h // 2], fill=0)

    return Compose([ToTensor(), Lambda(resize_longest), Lambda(pad_with_black)])


SIZES = [(48, 48), (40, 64), (64, 41), (53, 79), (16, 16), (11, 9)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_official_images_are_those_of_the_releases_to_the_last_bit(height: int, width: int) -> None:
    images, image = images_of_8_bits(height, width)
    clip = Compose([Resize(16, BICUBIC), CenterCrop(16)])
    siglip = SiglipImageProcessorPil(size={"height": 16, "width": 16}, resample=3, do_normalize=False)
    squashed = siglip(image, return_tensors="pt")["pixel_values"]

    assert torch.equal(frame_officially(images, InputSpec(16)), to_tensor(clip(image))[None])
    torch.testing.assert_close(frame_officially(images, InputSpec(16, "squash")), squashed, rtol=0, atol=1e-6)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_official_padding_is_hpsv2s_resize_of_the_float_tensor(height: int, width: int, antialias: bool) -> None:
    images, image = images_of_8_bits(height, width)
    expected = hpsv2_transform(16, antialias=antialias)(image)[None]
    found = frame_officially(images, InputSpec(16, "pad", antialias))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_official_padding_keeps_the_overshoot_of_hpsv2s_resize() -> None:
    squares = checkerboard()
    image = Image.fromarray((squares[0].permute(1, 2, 0) * 255).byte().numpy())
    expected = hpsv2_transform(32)(image)[None]
    assert expected.max() > 1.05
    torch.testing.assert_close(frame_officially(squares, InputSpec(32, "pad")), expected, rtol=0, atol=1e-6)


def test_official_padding_rounds_to_8_bits_before_the_resize_only() -> None:
    images, _ = images_of_8_bits(40, 64)
    shifted = images + 0.4 / 255
    assert torch.equal(
        frame_officially(shifted, InputSpec(16, "pad")), frame_officially(images.clamp(0, 1), InputSpec(16, "pad"))
    )


def test_reward_can_disable_antialiasing() -> None:
    images, _ = images_of_8_bits(48, 48)
    expected = resize(images, [16, 16], BICUBIC, antialias=False)
    torch.testing.assert_close(frame(images, InputSpec(16, antialias=False)), expected, rtol=0, atol=1e-6)
    assert (frame(images, InputSpec(16)) - expected).abs().mean() > 0.05


@pytest.mark.parametrize(("height", "width"), [(48, 48), (64, 40)])
def test_official_crop_is_that_of_clips_processor(height: int, width: int) -> None:
    images, image = images_of_8_bits(height, width)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    expected = processor(image, return_tensors="pt")["pixel_values"]

    found = normalize(frame_officially(images, InputSpec(16)), *CLIP_STATISTICS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_both_ways_differ_by_little_more_than_an_8_bit_step(height: int, width: int, fit: Fit) -> None:
    noise, _ = images_of_8_bits(height, width)
    # Nothing overshoots black or white here, where PIL clamps after each of its two passes.
    images = (64 + (noise * 255 / 2).floor()) / 255
    difference = (frame(images, InputSpec(16, fit)) - frame_officially(images, InputSpec(16, fit))).abs()

    # Half a step from each of PIL's two roundings, the first one times the absolute weights of a bicubic filter.
    assert difference.max() < 1.2 / 255


def test_official_images_are_rounded_first_and_carry_no_gradient() -> None:
    images = torch.full((1, 3, 4, 4), 0.3, requires_grad=True)

    found = frame_officially(images, InputSpec(4))

    assert not found.requires_grad
    assert found.unique().tolist() == pytest.approx([round(0.3 * 255) / 255])


def test_image_of_the_right_size_is_unchanged() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    assert torch.equal(frame(images, InputSpec(8)), images)


def checkerboard() -> Tensor:
    """Squares of 4 black or white pixels, `[1, 3, 20, 20]`."""
    squares = (torch.arange(20)[:, None] // 4 + torch.arange(20)[None] // 4) % 2
    return squares.float().expand(1, 3, 20, 20).clone()


def test_overshoot_at_an_edge_is_that_of_a_bicubic_filter() -> None:
    # A black and a white half, twice as large. At distances 1.25 and 1.75 the cubic with a = -0.5 is -9/128 and -3/128,
    # at 0.75 it is 29/128.
    images = torch.zeros(1, 3, 8, 8)
    images[..., 4:] = 1
    row = frame(images, InputSpec(16))[0, 0, 8]
    expected = torch.tensor([0, -3, -9, 29 - 3]) / 128
    torch.testing.assert_close(row[4:8], expected)
    torch.testing.assert_close(row[8:12], 1 - expected.flip(0))


def test_gradient_is_not_cut_where_the_resize_overshoots() -> None:
    images = checkerboard().requires_grad_()
    resized = frame(images, InputSpec(32))
    beyond = (resized < -0.01) | (resized > 1.01)
    assert beyond.any()
    (gradient,) = torch.autograd.grad(resized[beyond].sum(), images)
    # Each resized pixel is a weighted mean of the image's, so the gradient of so many sums to their number.
    assert gradient.sum().item() == pytest.approx(beyond.sum().item(), rel=1e-5)


@pytest.mark.parametrize(("antialias", "most"), [(True, 0.31), (False, 0.45)])
def test_overshoot_stays_within_what_is_documented(antialias: bool, most: float) -> None:
    # One white row per image; a column of the result has the row's weights.
    rows = torch.eye(64).reshape(64, 1, 64, 1).expand(64, 3, 64, 64)
    for size in (9, 16, 31, 33, 63, 65, 128):
        weights = frame(rows, InputSpec(size, "squash", antialias))[:, 0, :, 0]
        positive, negative = weights.clamp(min=0).sum(0), -weights.clamp(max=0).sum(0)
        # The worst image is white where the product of a row's and a column's weight is positive, and black elsewhere.
        worst = (positive.max() ** 2 + negative.max() ** 2).item()
        assert worst < 1 + most


def test_gradient_of_the_resize_equals_finite_differences() -> None:
    images = smooth_images(1, 7, 9).double().requires_grad_()

    assert torch.autograd.gradcheck(lambda x: frame(x, InputSpec(5)), images)


def test_each_size_is_computed_once_in_float32() -> None:
    resized = frame_for_each(torch.rand(2, 3, 16, 16).bfloat16(), [InputSpec(8), InputSpec(4), InputSpec(8)])

    assert {input_spec.size: tuple(t.shape) for input_spec, t in resized.items()} == {4: (2, 3, 4, 4), 8: (2, 3, 8, 8)}
    assert all(t.dtype == torch.float32 for t in resized.values())


def test_normalize_shifts_and_scales_each_channel() -> None:
    images = torch.full((1, 3, 2, 2), 0.5)

    normal = normalize(images, mean=(0.5, 0.25, 0.0), std=(0.1, 0.5, 2.0))

    assert normal[0, :, 0, 0].tolist() == pytest.approx([0.0, 0.5, 0.25])


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 1, 8, 8)])
def test_anything_but_a_batch_of_colour_images_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        frame(torch.zeros(shape), InputSpec(4))

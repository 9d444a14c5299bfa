import pytest
import torch
from torch import Tensor

from srpo_ray.evaluation.image_statistics import drift, image_statistics, seed_diversity, thumbnails


def flat(red: float, green: float, blue: float) -> Tensor:
    return torch.tensor([red, green, blue])[None, :, None, None].expand(1, 3, 8, 8)


def test_gray_has_only_brightness():
    statistics = image_statistics(flat(0.5, 0.5, 0.5))
    assert statistics["brightness"].item() == pytest.approx(0.5)
    for name in ("saturation", "contrast", "high_frequency", "color_cast"):
        assert statistics[name].item() == pytest.approx(0, abs=1e-6)


def test_pure_red_by_hand():
    statistics = image_statistics(flat(1, 0, 0))
    assert statistics["saturation"].item() == pytest.approx(1)
    assert statistics["brightness"].item() == pytest.approx(0.2126)
    # Cr = (1 - 0.2126) / 1.5748 = 0.5; Cb = -0.2126 / 1.8556 = -0.11457.
    assert statistics["color_cast"].item() == pytest.approx((0.5**2 + 0.11457**2) ** 0.5, rel=1e-4)


def test_half_bright_colour_keeps_its_saturation():
    assert image_statistics(flat(0.4, 0.1, 0.2))["saturation"].item() == pytest.approx(0.75)


def test_black_and_white_halves():
    images = torch.zeros(1, 3, 8, 8)
    images[..., 4:] = 1
    statistics = image_statistics(images)
    assert statistics["contrast"].item() == pytest.approx(0.5)
    # Beside the edge the blur is off by one third, in 2 of 8 columns.
    assert statistics["high_frequency"].item() == pytest.approx(2 / 8 / 9, rel=1e-5)


def test_one_bright_pixel():
    images = torch.zeros(1, 3, 9, 9)
    images[..., 4, 4] = 1
    # The pixel loses 1/9 of itself to its surroundings: (8/9)^2 there and (1/9)^2 in eight neighbours.
    expected = ((8 / 9) ** 2 + 8 / 81) / 81
    assert image_statistics(images)["high_frequency"].item() == pytest.approx(expected, rel=1e-5)


def test_opposite_casts_cancel_in_the_mean():
    images = torch.cat([flat(1, 0, 0), flat(0, 1, 1)], dim=3)
    assert image_statistics(images)["color_cast"].item() == pytest.approx(0, abs=1e-6)


def test_images_of_a_batch_are_measured_apart_and_in_float32():
    torch.manual_seed(0)
    images = torch.rand(3, 3, 16, 12)
    together = image_statistics(images)
    for index in range(3):
        alone = image_statistics(images[index : index + 1])
        for name, values in together.items():
            assert values.shape == (3,)
            assert torch.allclose(values[index], alone[name][0])
    assert image_statistics(images.to(torch.bfloat16))["contrast"].dtype == torch.float32


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\], got \[3, 8, 8\]"):
        image_statistics(torch.zeros(3, 8, 8))


def test_diversity_is_zero_for_copies_and_the_mean_distance_to_the_others():
    copies = torch.rand(1, 2, 3, 8, 8).expand(3, -1, -1, -1, -1)
    assert seed_diversity(copies).tolist() == [[0.0, 0.0]] * 3
    levels = torch.tensor([0.0, 0.3, 0.9])[:, None, None, None, None].expand(3, 1, 3, 8, 8)
    assert seed_diversity(levels).flatten().tolist() == pytest.approx([0.6, 0.45, 0.75])
    with pytest.raises(ValueError, match=r"S >= 2.*got \[1, 2, 3, 8, 8\]"):
        seed_diversity(copies[:1])


def test_thumbnails_are_means_of_blocks():
    images = torch.rand(1, 3, 64, 128)
    corner = images[0, :, :2, :4].mean((1, 2))
    assert thumbnails(images).shape == (1, 3, 32, 32)
    assert torch.allclose(thumbnails(images)[0, :, 0, 0].float(), corner, atol=1e-3)


def test_drift_is_the_mean_over_images_of_the_root_mean_square_change():
    base = {4: torch.zeros(3, 8, 8), 7: torch.full((3, 8, 8), 0.5)}
    half = torch.cat([torch.full((3, 4, 8), 0.5), torch.full((3, 4, 8), 0.9)], dim=1)
    assert drift(base, base) == 0
    # All pixels of the first change by 0.2; half of those of the second by 0.4, so sqrt(0.08).
    assert drift(base, {4: base[4] + 0.2, 7: half}) == pytest.approx((0.2 + 0.08**0.5) / 2, rel=1e-5)

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from srpo_ray.config.base import Scope
from srpo_ray.flow import (
    Draws,
    euler_step,
    flux_shift,
    generator,
    mix,
    recover_clean,
    shift_at,
    shifted_sigmas,
    window_sigmas,
)


@pytest.mark.parametrize(("num_steps", "shift"), [(4, 3.0), (25, 3.0), (50, 1.0)])
def test_shifted_grid_equals_the_diffusers_scheduler(num_steps: int, shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    even = torch.linspace(1, 0, num_steps + 1)[:-1].tolist()
    scheduler.set_timesteps(sigmas=even)
    torch.testing.assert_close(shifted_sigmas(num_steps, shift).float(), scheduler.sigmas, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("pixels", "expected"), [(512, 1.878), (720, 2.224), (1024, 3.158)])
def test_flux_shift_has_the_published_values(pixels: int, expected: float) -> None:
    assert flux_shift((pixels // 16) ** 2) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("window", "ends"), [((5, 25), (27 / 28, 0.75)), ((5, 30), (27 / 28, 2 / 3))])
def test_window_ends_are_the_papers(window: tuple[int, int], ends: tuple[float, float]) -> None:
    sigmas = window_sigmas(window, shifted_sigmas(50, 3.0), 1000)
    assert sigmas[0].item() == pytest.approx(ends[0], abs=1e-12)
    assert sigmas[-1].item() == pytest.approx(ends[1], abs=1e-12)
    steps = sigmas.diff()
    assert len(sigmas) == 1000
    torch.testing.assert_close(steps, steps[0].expand_as(steps), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("window", [(25, 5), (-1, 5), (5, 51)])
def test_reversed_or_outside_window_is_refused(window: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected a window with 0 <= first < last <= 50"):
        window_sigmas(window, shifted_sigmas(50, 3.0), 1000)


def test_recover_clean_inverts_mix() -> None:
    clean, noise = torch.randn(2, 6, 4, 8, dtype=torch.float64)
    sigma = torch.rand(6, dtype=torch.float64) * 0.98
    torch.testing.assert_close(recover_clean(mix(clean, noise, sigma), noise, sigma), clean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("direction", ["denoise", "inversion"])
def test_true_velocity_recovers_the_clean_sample_from_any_noise_level(direction: str) -> None:
    clean, noise = torch.randn(2, 50, 3, 8, dtype=torch.float64)
    low, high = torch.rand(2, 50, dtype=torch.float64).mul(0.98).sort(dim=0).values
    start, landing = (high, low) if direction == "denoise" else (low, high)
    landed = euler_step(mix(clean, noise, start), noise - clean, start, landing)
    torch.testing.assert_close(recover_clean(landed, noise, landing), clean, rtol=0, atol=1e-11)


def test_same_address_gives_the_same_draw_and_another_address_another_draw() -> None:
    def draw(*address: int, purpose: str = "rollout", seed: int = 0) -> list[float]:
        return torch.randn(4, generator=generator(seed, purpose, *address)).tolist()

    assert draw(3, 1) == draw(3, 1)
    others = [draw(1, 3), draw(31), draw(3, 1, purpose="landing"), draw(3, 1, seed=1)]
    assert all(other != draw(3, 1) for other in others)


def test_integers_reach_both_ends_and_all_between_evenly() -> None:
    draws = Draws(0, 0, tuple(range(5000))).integers("landing", 5, 9)
    counts = [draws.count(value) for value in range(5, 10)]
    assert sum(counts) == len(draws)
    deviation = math.sqrt(len(draws) * 0.2 * 0.8)
    assert all(abs(count - 1000) < 5 * deviation for count in counts)


def test_shift_is_a_number_or_follows_the_resolution() -> None:
    assert shift_at(3.0, 1024) == 3.0
    # 1024 px are 4096 tokens, the upper end of FLUX's line, exp(1.15).
    assert shift_at("resolution", 64 * 64) == pytest.approx(3.1582, abs=1e-4)
    assert shift_at("resolution", 32 * 32) == pytest.approx(1.8776, abs=1e-4)


def test_sample_has_the_same_draws_on_any_worker_and_in_any_batch() -> None:
    def drawn(draws: Draws, scope: Scope) -> list[int]:
        return draws.integers("landing", 0, 10**9, 2, scope=scope)

    whole = drawn(Draws(3, 5, (0, 1, 2, 3)), "per_sample")
    assert [*drawn(Draws(3, 5, (0, 1), 0), "per_sample"), *drawn(Draws(3, 5, (2, 3), 1), "per_sample")] == whole
    assert len(set(whole)) == 4
    assert len({*drawn(Draws(3, 5, (0, 1), 0), "shared"), *drawn(Draws(3, 5, (2, 3), 1), "shared")}) == 1
    by_worker = [drawn(Draws(3, 5, (2 * worker, 2 * worker + 1), worker), "per_worker") for worker in range(2)]
    assert [len(set(values)) for values in by_worker] == [1, 1]
    assert by_worker[0] != by_worker[1]
    # The address by its text, as the first runs had it.
    source = generator(3, "landing", 5, 1, 2)
    assert whole[1] == int(torch.randint(0, 10**9 + 1, (), generator=source))

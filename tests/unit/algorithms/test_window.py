"""The window's points and the length of its steps, against closed forms."""

from typing import Any, cast

import pytest
import torch

from srpo_ray.algorithms import Batch
from srpo_ray.algorithms.direct_align import DirectAlign
from srpo_ray.algorithms.srpo import SRPO
from srpo_ray.algorithms.window import build_window
from srpo_ray.config.algorithms.control_words import PAPER_WORDS
from srpo_ray.config.algorithms.direct_align import DirectAlignConfig
from srpo_ray.config.algorithms.srpo import SRPOConfig
from srpo_ray.config.algorithms.window import WindowSection
from srpo_ray.config.model import RolloutConfig
from srpo_ray.flow import Draws, numeric_grid
from srpo_ray.models.conditioning import Conditioning
from tests.helpers.algorithms.stand_ins import AffinePolicy, PromptRewards, as_policy, as_scorer

SECTIONS = [SRPOConfig, DirectAlignConfig]


@pytest.mark.parametrize(
    ("strength", "points"),
    # As in the release, in binary fractions and without rounding: 1 - 0.9 is a little below a tenth, 1 - 0.7 above 0.3.
    [(0.9, 100), (0.8, 200), (0.7, 301), (0.95, 51), (0.5, 501), (0.25, 751)],
)
def test_stride_of_a_strength_is_the_releases(strength: float, points: int) -> None:
    assert build_window(SRPOConfig(interpolation_strength=strength), numeric_grid).stride == points


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("window", [(5, 25), (15, 40), (1, 49)])
def test_sigma_stride_is_the_length_of_every_step_that_is_not_cut(
    section: type[WindowSection], window: tuple[int, int]
) -> None:
    made = build_window(section(timestep_window=window, sigma_stride=0.03), numeric_grid)
    noisy, clean = (3 * t / (1 + 2 * t) for t in (1 - window[0] / 50, 1 - window[1] / 50))
    spacing = (noisy - clean) / 999
    lengths = [made.stride_at(draw) * spacing for draw in range(5, 996)]
    assert max(lengths) == pytest.approx(0.03, abs=spacing / 2)
    for draw, length in enumerate(lengths, start=5):
        # A step is cut to the distance of its landing from the nearer end of the window.
        assert length == pytest.approx(min(max(lengths), min(draw, 1000 - draw) * spacing))


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("stride", [0.15, 0.00005])
def test_sigma_stride_that_does_not_fit_is_refused(section: type[WindowSection], stride: float) -> None:
    # The default window is 0.2143 wide, its points 0.000215 apart.
    with pytest.raises(ValueError, match=r"sigma_stride: expected 0.00021 .* to 0.1073 \(half of the window, .* got"):
        build_window(section(sigma_stride=stride), numeric_grid)


@pytest.mark.parametrize("section", SECTIONS)
def test_window_may_end_at_data(section: type[WindowSection]) -> None:
    made = build_window(section(timestep_window=(40, 50), window_points=101), numeric_grid)
    noisy = 3 * 0.2 / (1 + 2 * 0.2)
    torch.testing.assert_close(made.sigmas, torch.tensor([noisy * (1 - i / 100) for i in range(101)]).double())
    same = build_window(section(sigma_window=(noisy, 0.0), window_points=101), numeric_grid)
    torch.testing.assert_close(same.sigmas, made.sigmas)


def landings(algorithm: Any, config: WindowSection, batch: Batch) -> list[float]:
    policy: Any = AffinePolicy()
    rewards = as_scorer(PromptRewards())
    made: Any = cast(Any, algorithm)(
        config, RolloutConfig(num_steps=2), as_policy(policy), rewards, words=PAPER_WORDS if algorithm is SRPO else None
    )
    (loss,) = [loss() for loss in made.losses(batch, made.collect(batch))]
    return loss.metrics["step/landing_sigma/denoise"].tolist()


def batch_of(samples: tuple[int, ...], worker: int) -> Batch:
    conditioning = Conditioning(torch.zeros(len(samples), 1, 1), torch.zeros(len(samples), 1))
    return Batch(tuple(f"prompt {sample}" for sample in samples), conditioning, Draws(7, 1, samples, worker))


@pytest.mark.parametrize("options", [{}, {"sigma_window": (0.9, 0.4)}, {"sigma_stride": 0.05}, {"window_shift": 1.5}])
@pytest.mark.parametrize("scope", ["per_sample", "per_worker", "shared"])
def test_direct_align_lands_where_srpo_lands(scope: str, options: dict[str, Any]) -> None:
    def both(samples: tuple[int, ...], worker: int) -> list[float]:
        batch = batch_of(samples, worker)
        plain = {"landing": scope, "hinge": 1e3, **options}
        found = landings(DirectAlign, DirectAlignConfig(**plain), batch)
        srpo = SRPOConfig(query="plain", branches=("denoise",), **cast(Any, plain))
        assert found == landings(SRPO, srpo, batch)
        return found

    first, second = both((0, 1, 2), 0), both((3, 4, 5), 1)
    assert len({*first, *second}) == {"per_sample": 6, "per_worker": 2, "shared": 1}[scope]

"""An update of every preset and recipe is the same on any number of workers, each of which computes its own samples."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms import Batch, build_algorithm
from srpo_ray.config import RunConfig, load_run
from srpo_ray.flow import Draws
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.rewards.base import Scores
from tests.conftest import ROOT, SMALL_WORLD
from tests.helpers.algorithms.stand_ins import AffinePolicy

PRESETS = ROOT / "configs" / "presets"
REFERENCE = PRESETS / "srpo_reference.yaml"
PICK_SCORE = PRESETS / "srpo_reference_pickscore.yaml"
LAYERS = [
    *([path] for path in sorted(PRESETS.glob("*.yaml")) if path != PICK_SCORE),
    [REFERENCE, PICK_SCORE],
    *([path] for path in sorted((ROOT / "configs" / "recipes").glob("flux_*.yaml")) if "pairs" not in path.stem),
]
SAMPLES = 8


class WordRewards:
    """Score = mean of the image times the query's weights, each times the length of its text."""

    def submit(self, images: Tensor, queries: Any) -> Any:
        slopes = [sum(weight * len(text) for weight, text in query.terms) for query in queries]
        total = images.mean(dim=(1, 2)) * torch.tensor(slopes, dtype=torch.float64)
        return SimpleNamespace(result=lambda: Scores(total, {}))


def update(config: RunConfig, workers: int) -> tuple[list[float], Tensor]:
    """Landing sigmas of one update by branch and sample, and its gradient, from workers one after the other."""
    policy: Any = AffinePolicy()
    rewards: Any = WordRewards()
    landings: dict[str, list[float]] = {}
    share = SAMPLES // workers
    for worker in range(workers):
        samples = tuple(range(worker * share, (worker + 1) * share))
        conditioning = Conditioning(torch.zeros(share, 1, 1), torch.zeros(share, 1))
        batch = Batch(
            tuple(f"prompt {sample}" for sample in samples), conditioning, Draws(config.seed, 1, samples, worker)
        )
        algorithm = build_algorithm(config, policy, rewards)
        for pending in algorithm.losses(batch, algorithm.collect(batch)):
            output = pending()
            (output.loss / workers).backward()
            for name, values in output.metrics.items():
                if name.startswith("step/landing_sigma/"):
                    landings.setdefault(name, []).extend(values.tolist())
    return [sigma for values in landings.values() for sigma in values], policy.offset.grad


@pytest.mark.parametrize("layers", LAYERS, ids=lambda layers: layers[-1].stem)
def test_preset_has_the_same_landings_and_gradient_on_any_number_of_workers(layers: list[Path]) -> None:
    config = load_run([SMALL_WORLD, *layers], ["algorithm.hinge=1e6"])
    landings, gradient = update(config, 1)
    assert len(set(landings)) > SAMPLES / 2
    assert gradient.abs().max().item() > 0
    for workers in (2, 4, 8):
        elsewhere, found = update(config, workers)
        assert elsewhere == landings
        torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-12)

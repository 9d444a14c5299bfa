from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from srpo_ray.config.evaluation import EvaluationConfig
from srpo_ray.evaluation.panel import Panel, combine
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.models.text import Conditioning
from srpo_ray.rewards.query import TextQuery

PROMPTS = [f"prompt {index}" for index in range(5)]


class NoisePolicy:
    """A picture is its noise, squashed and shaped; so every picture of the panel is known."""

    device = torch.device("cpu")
    dtype = torch.float32

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        return torch.stack([torch.rand(3, 8, 8, generator=g) for g in generators])

    def rollout(self, noise: Tensor, conditioning: Conditioning, sigmas: Tensor, guidance_scale: float) -> Tensor:
        return noise + conditioning.pooled_prompt_embeds[:, :, None, None] / 100

    def decode(self, tokens: Tensor) -> Tensor:
        return tokens.clamp(0, 1)


class MeanRewards:
    """`trained` is the mean of the picture, `judge` is its maximum."""

    def measure(self, images: Tensor, queries: Sequence[TextQuery]) -> dict[str, Tensor]:
        assert all(len(query.terms) == 1 for query in queries)
        return {"trained": images.mean(dim=(1, 2, 3)), "judge": images.amax(dim=(1, 2, 3))}


def judge(world_size: int, batch_size: int) -> tuple[dict[str, float], dict[int, Tensor]]:
    config = EvaluationConfig(samples_per_prompt=3, batch_size=batch_size, gallery_size=2)
    conditioning = Conditioning(torch.zeros(5, 1, 1), torch.arange(5.0)[:, None].expand(5, 3))
    shares = []
    for rank in range(world_size):
        panel = Panel(config, PROMPTS, conditioning, shift=3.0, truth=False, rank=rank, world_size=world_size)
        shares.append(panel.judge(cast(FluxPolicy, NoisePolicy()), cast(Any, MeanRewards()), {"trained": 2.0}))
    assert len({len(share.items) for share in shares}) == 1, "workers must make the same number of calls"
    return combine(shares)


@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 4), (4, 32), (7, 1)])
def test_any_number_of_workers_finds_the_same_means_and_pictures(world_size: int, batch_size: int) -> None:
    alone, pictures = judge(1, 32)
    together, theirs = judge(world_size, batch_size)
    assert together == {name: pytest.approx(value, rel=1e-6) for name, value in alone.items()}
    assert list(theirs) == list(pictures)
    assert len(pictures) == 2
    assert all(torch.equal(theirs[index], pictures[index]) for index in pictures)


def test_trained_models_are_rewards_and_all_others_the_panel() -> None:
    metrics, _ = judge(1, 32)
    assert {"reward/trained", "panel/judge", "reward/total", "image/saturation"} <= set(metrics)
    assert metrics["reward/total"] == pytest.approx(2 * metrics["reward/trained"], rel=1e-6)
    assert 0.4 < metrics["reward/trained"] < 0.6 < metrics["panel/judge"]

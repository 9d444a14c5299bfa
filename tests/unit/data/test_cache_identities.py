"""Folders of caches, which runs of earlier versions wrote: a square has the identity of its one number."""

import hashlib

import pytest

from srpo_ray.config import RunConfig, apply
from srpo_ray.data.cache.latents import LatentCache
from srpo_ray.data.rollouts import RolloutCache
from srpo_ray.models.content_hash import parts_identity
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.sigma_grid import sigma_grid


@pytest.mark.parametrize(("given", "written"), [(64, "64"), ([64, 64], "64"), ([48, 80], "(48, 80)")])
def test_caches_of_squares_are_those_of_earlier_versions(given: object, written: str, tiny_run: RunConfig) -> None:
    config, path = apply(tiny_run, {"model.resolution": given}), resolve_path("small_world")
    latents = f"{parts_identity(path, ('vae',))} {written} torch.float32"
    assert LatentCache.of(config).store.folder.name == hashlib.sha256(latents.encode()).hexdigest()[:16]
    parts = ("transformer", "vae", "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
    sampler = f"({written}, 16, False, 1.0, {sigma_grid(config.model)(4, 3.0).tolist()})"
    rollouts = f"{parts_identity(path, parts)} torch.float32 {sampler} 0"
    assert RolloutCache(config).store.folder.name == hashlib.sha256(rollouts.encode()).hexdigest()[:16]

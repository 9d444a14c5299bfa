"""Clean images of the base model, sampled once for each prompt and kept on disk for all runs that can use them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from srpo_ray.config import RunConfig
from srpo_ray.data.cache.latents import TOKENS
from srpo_ray.data.cache.shards import Rows, ShardStore
from srpo_ray.data.cache.text_features import cache_root
from srpo_ray.flow import generator
from srpo_ray.models.content_hash import content_hash, parts_identity
from srpo_ray.models.families import family_of
from srpo_ray.models.lora_files import adapter_files
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.models.trainable import model_dtype


class Item(NamedTuple):
    """One image of the base model."""

    text: str
    """Text that the model is conditioned on."""
    copy: int
    """Number of the image among those of its text, from 0."""

    @property
    def key(self) -> str:
        """Address of the image in a cache, 32 hexadecimal digits."""
        return hashlib.sha256(f"{self.copy} {self.text}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class BaseRollouts:
    """Clean tokens of the images that a run needs, read from the cache when an update asks for them."""

    rows: Rows
    positions: Mapping[int, int]
    """Number of an image in the order of the run, `copy * num_prompts + prompt`, -> its row."""

    def __getitem__(self, numbers: Sequence[int]) -> Tensor:
        """Clean tokens `[len(numbers), N, C]`."""
        return self.rows[[self.positions[number] for number in numbers]][TOKENS]


class RolloutCache:
    """Images of one base model with one sampler and one seed."""

    def __init__(self, config: RunConfig) -> None:
        """Find the cache that a run's images belong to; whatever changes an image has a folder of its own.

        Raises:
            ValueError: If the model cannot be read.
        """
        path, model, rollout = resolve_path(config.model.path), config.model, config.rollout
        parts = ("transformer", "vae", *family_of(path).text_parts)
        sigmas = sigma_grid(model)(rollout.num_steps, rollout.shift).tolist()
        resolution = model.size.resolution
        sampler = (resolution, model.max_sequence_length, model.truncate_sigma, rollout.guidance_scale, sigmas)
        identity = f"{parts_identity(path, parts)} {model_dtype(config)} {sampler} {rollout.seed}"
        if rollout.cache_threshold is not None:
            identity += f" first-block cache {rollout.cache_threshold}"
        if model.lora and model.lora.merged:
            identity += f" merged {[content_hash(file) for file in adapter_files(model.lora.merged)[0]]}"
        name = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.store = ShardStore(cache_root(config) / "rollouts" / name)
        self._seed = rollout.seed

    def missing(self, items: Sequence[Item]) -> list[Item]:
        """Images that have to be sampled, each once; see `ShardStore.missing`."""
        return [items[index] for index in self.store.missing([item.key for item in items])]

    def absent(self, items: Sequence[Item]) -> list[Item]:
        """Images that no process has written yet; their contents are not checked."""
        written = self.store.keys()
        return [item for item in items if item.key not in written]

    def noises(self, items: Sequence[Item]) -> list[torch.Generator]:
        """Generators of the noise that the images start from, addressed by seed, text and copy alone."""
        return [generator(self._seed, "base_model", int(item.key, 16)) for item in items]

    def add(self, items: Sequence[Item], tokens: Tensor) -> None:
        """Write images as one shard.

        Args:
            items: B images.
            tokens: Their clean tokens `[B, N, C]`.
        """
        self.store.add([item.key for item in items], {TOKENS: tokens})

    def tokens(self, items: Mapping[int, Item]) -> BaseRollouts:
        """Open images that have all been sampled.

        Args:
            items: Number in the order of the run -> image.

        Raises:
            ValueError: If one is not in the cache.
        """
        positions = {number: row for row, number in enumerate(items)}
        return BaseRollouts(self.store.rows([item.key for item in items.values()]), positions)

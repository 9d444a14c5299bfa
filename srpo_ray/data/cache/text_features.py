"""Text features, encoded once and kept on disk, so that training needs no text encoder in memory."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from srpo_ray.config import RunConfig
from srpo_ray.data.cache.shards import Rows, ShardStore
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.content_hash import parts_identity
from srpo_ray.models.families import family_of
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.text_encoders import TextEncoders
from srpo_ray.models.trainable import model_dtype


@dataclass(frozen=True)
class TextFeatures:
    """Features of a list of prompts, read from the cache when they are asked for."""

    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: list[int]) -> Conditioning:
        return Conditioning(**self.rows[index])


class TextCache:
    """The text features of one pair of encoders, one length and one data type."""

    def __init__(self, path: str, max_sequence_length: int, dtype: torch.dtype, root: Path) -> None:
        """Find the cache of these encoders.

        Args:
            path: Folder or hub id of the pipeline.
            max_sequence_length: T5 tokens per prompt.
            dtype: Data type that the encoders run in.
            root: Folder of all caches; each pair of encoders, length and data type has a folder of its own in it.
        """
        self._path, self._max_sequence_length, self._dtype = path, max_sequence_length, dtype
        identity = f"{parts_identity(path, family_of(path).text_parts)} {max_sequence_length} {dtype}"
        self.store = ShardStore(root / "text" / hashlib.sha256(identity.encode()).hexdigest()[:16])

    @classmethod
    def of(cls, config: RunConfig) -> "TextCache":
        """The cache of a run's model."""
        model = config.model
        return cls(resolve_path(model.path), model.max_sequence_length, model_dtype(config), cache_root(config))

    def missing(self, prompts: Sequence[str]) -> list[str]:
        """Prompts without whole features, each once; see `ShardStore.missing`."""
        return [prompts[index] for index in self.store.missing([_key(prompt) for prompt in prompts])]

    def features(self, prompts: Sequence[str]) -> TextFeatures:
        """Features of prompts that have all been encoded, in their order.

        Raises:
            ValueError: If one has not.
        """
        return TextFeatures(self.store.rows([_key(prompt) for prompt in prompts]))

    def load_encoder(self, device: str) -> Callable[[Sequence[str]], object]:
        """Load the text encoders.

        Args:
            device: Where they run.

        Returns:
            Encodes prompts and writes them as one shard; the encoders are in memory as long as it is.

        Raises:
            ValueError: If the encoders cannot be read.
        """
        encoders = TextEncoders(self._path, self._max_sequence_length, self._dtype, device)
        return lambda prompts: self.store.add([_key(prompt) for prompt in prompts], vars(encoders.encode(prompts)))


def cache_root(config: RunConfig) -> Path:
    """Where runs of one root keep what each of them would compute again."""
    return Path(config.run_root) / "cache"


def _key(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:32]

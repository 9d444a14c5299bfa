"""Cache of text features on disk, so that training needs no text encoder in memory."""

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
    """Features of a list of prompts, read from the cache on demand."""

    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: list[int]) -> Conditioning:
        return Conditioning(**self.rows[index])


class TextCache:
    """Text features for the text encoders of one pipeline, one length and one data type."""

    def __init__(self, path: str, max_sequence_length: int, dtype: torch.dtype, root: Path) -> None:
        """Open the cache of these encoders.

        Args:
            path: Folder or hub id of the pipeline.
            max_sequence_length: T5 tokens per prompt.
            dtype: Data type of the encoders.
            root: Folder of all caches; each set of encoders, length and data type has a separate folder in it.
        """
        self._path, self._max_sequence_length, self._dtype = path, max_sequence_length, dtype
        identity = f"{parts_identity(path, family_of(path).text_parts)} {max_sequence_length} {dtype}"
        self.store = ShardStore(root / "text" / hashlib.sha256(identity.encode()).hexdigest()[:16])

    @classmethod
    def of(cls, config: RunConfig) -> "TextCache":
        """Open the cache of a run's model."""
        model = config.model
        return cls(resolve_path(model.path), model.max_sequence_length, model_dtype(config), cache_root(config))

    def missing(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts without intact features, each once; see `ShardStore.missing`."""
        return [prompts[index] for index in self.store.missing([_key(prompt) for prompt in prompts])]

    def features(self, prompts: Sequence[str]) -> TextFeatures:
        """Return the features of prompts that have all been encoded, in their order.

        Raises:
            ValueError: If a prompt has not been encoded.
        """
        return TextFeatures(self.store.rows([_key(prompt) for prompt in prompts]))

    def load_encoder(self, device: str) -> Callable[[Sequence[str]], object]:
        """Load the text encoders.

        Args:
            device: Device of the encoders.

        Returns:
            Function that encodes prompts and writes them as one shard; the encoders stay in memory as long as it does.

        Raises:
            ValueError: If the encoders cannot be read.
        """
        encoders = TextEncoders(self._path, self._max_sequence_length, self._dtype, device)
        return lambda prompts: self.store.add([_key(prompt) for prompt in prompts], vars(encoders.encode(prompts)))


def cache_root(config: RunConfig) -> Path:
    """Folder of the caches that all runs of one root share."""
    return Path(config.run_root) / "cache"


def _key(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:32]

"""Scores of the images of a pair file by the reward models of a config, in resumable chunks."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from srpo_ray.config import RunConfig
from srpo_ray.data.images import CaptionedImages, to_tensor
from srpo_ray.data.pairs import PairFile
from srpo_ray.errors import RunFailedError
from srpo_ray.inference.work import Place, Row, Work
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.query import TextQuery
from srpo_ray.runs.inputs import reward_hashes

Item = tuple[int, str]
"""Index of a picture in its file, and a prompt that it is scored against."""


@dataclass(frozen=True)
class PairImagesJob:
    """Job of scoring pictures; a row has `item`, the index of a picture with its prompt."""

    config: RunConfig
    """Config of the reward models that score, without held-out ones."""
    images: CaptionedImages
    items: tuple[Item, ...]
    folder: Path
    identity: str
    """SHA-256 of the pictures and prompts."""

    @classmethod
    def of(cls, config: RunConfig, pairs: PairFile, folder: Path) -> "PairImagesJob":
        """Describe the scores of a file's pairs; a picture that several rows have with one prompt is scored once.

        Raises:
            ValueError: If an image cannot be read.
        """
        items = tuple(dict.fromkeys((index, row.prompt) for row in pairs.rows for index in row.images))
        identities = pairs.images.identities
        text = repr([(identities[index], prompt) for index, prompt in items])
        return cls(config, pairs.images, items, folder, hashlib.sha256(text.encode()).hexdigest())

    @property
    def chunks(self) -> list[list[int]]:
        """Divide the items into batches."""
        size, count = self.config.evaluation.batch_size, len(self.items)
        return [list(range(start, min(start + size, count))) for start in range(0, count, size)]

    @property
    def description(self) -> dict[str, Any]:
        """Describe everything that the scores depend on, see `Job`; weights of the sum are not among it.

        Raises:
            ValueError: If a file of a reward model cannot be read.
        """
        rewards = [model.model_dump(mode="json", exclude={"weight"}) for model in self.config.rewards.models]
        return {
            "pairs": self.identity,
            "rewards": rewards,
            "preprocessing": self.config.evaluation.preprocessing,
            "inputs": reward_hashes(self.config),
        }

    def places(self, chunk: Sequence[int]) -> list[Place]:
        """List the items of a chunk."""
        return [(index,) for index in chunk]

    def place_of(self, row: Row) -> Place:
        """Return the item of a row of this job; rows of others have none."""
        return (row.get("item", -1),)

    def has_image(self, place: Place) -> bool:
        """Return True: the images are not the job's."""
        return True


class PairScorer:
    """Scorer of the pictures of a job; every process of a job has one."""

    def __init__(self, job: PairImagesJob) -> None:
        """Load the reward models.

        Raises:
            ValueError: If one cannot be loaded.
        """
        config = job.config
        self._job = job
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._rewards = LocalRewards.load(
            config.rewards.models,
            factors=config.rewards.factors,
            micro_batch_size=config.rewards.pool.micro_batch_size,
            official=config.evaluation.preprocessing == "official",
            device=self._device,
        )

    def draw(self, chunk: Sequence[int]) -> list[Row]:
        """Score some items; those of one size are one batch.

        Raises:
            ValueError: If an image cannot be read.
            RunFailedError: If a reward fails, or the images of a batch do not fit the GPU's memory.
        """
        items = [self._job.items[index] for index in chunk]
        images = self._job.images.decode([picture for picture, _ in items], to_tensor)
        rows: dict[int, Row] = {}
        for shape in dict.fromkeys(image.shape for image in images):
            same = [place for place, image in enumerate(images) if image.shape == shape]
            queries = [TextQuery.plain(items[place][1]) for place in same]
            try:
                scores = self._rewards.measure(torch.stack([images[place] for place in same]).to(self._device), queries)
            except torch.OutOfMemoryError as error:
                raise RunFailedError(
                    f"a batch of {len(same)} images does not fit the GPU's memory ({error}); lower --batch-size"
                ) from error
            for row, place in enumerate(same):
                values = {f"reward/{name}": column[row].item() for name, column in scores.items()}
                rows[place] = {"item": chunk[place], **values}
        return [rows[place] for place in range(len(items))]


def _nothing(_: PairImagesJob) -> None:
    """Prepare nothing: rewards have no cache of the job."""


SCORING = Work(_nothing, PairScorer)

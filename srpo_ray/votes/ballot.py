"""Ballot of a vote: systems (base model, tuned models), and their images of the same prompts and noise."""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

from PIL import Image

from srpo_ray.votes.ledger import Vote

BASE, TUNED = "base", "tuned"
"""Names of the base model and of a run's tuned model."""


@dataclass(frozen=True)
class Item:
    """One prompt with one noise."""

    key: str
    """Equal for images that were drawn from the same model path, prompt and noise with the same sampler."""
    prompt_index: int
    prompt: str
    former: str = ""
    """Key without the settings of the sampler, under which older votes were stored; empty without one."""


@dataclass(frozen=True)
class Shown:
    """One image of one system."""

    digest: str
    """Digest of the pixels."""
    load: Callable[[], Image.Image]
    """Reads the image from disk."""

    def png(self) -> bytes:
        """The image as a PNG file that contains its pixels and nothing else."""
        file = io.BytesIO()
        # Level 1: a voter waits for the file, and a smaller one would take several times as long.
        self.load().save(file, format="PNG", compress_level=1)
        return file.getvalue()


def digest_of(image: Image.Image) -> str:
    """Digest of an RGB image's pixels."""
    return hashlib.sha256(f"{image.size}".encode() + image.convert("RGB").tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Pair:
    """Two systems' images of one item; the systems are in alphabetical order."""

    item: str
    first: str
    second: str

    @property
    def systems(self) -> tuple[str, str]:
        """Both systems."""
        return self.first, self.second


@dataclass(frozen=True)
class Ballot:
    """Everything that is voted on in one folder."""

    folder: Path
    """Folder of the run, experiment or evaluation; it keeps the votes."""
    title: str
    systems: Sequence[str]
    """Names of the systems; a base model comes first."""
    items: Mapping[str, Item]
    images: Mapping[tuple[str, str], Shown]
    """(system, item) -> its image."""
    scores: Mapping[str, Mapping[tuple[str, str], float]]
    """Metric -> (system, item) -> score of that very image by a proxy."""
    notes: Sequence[str] = ()
    """Remarks about what was left out."""

    @property
    def baseline(self) -> str | None:
        """The base model, which others are compared with; None if the folder has no images by it."""
        return BASE if BASE in self.systems else None

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """All pairs of systems with images of the same item; pairs of identical images are left out."""
        return tuple(self._pairs())

    def _pairs(self) -> Iterator[Pair]:
        for key in self.items:
            present = sorted(system for system in self.systems if (system, key) in self.images)
            for first, second in combinations(present, 2):
                if self.images[first, key].digest != self.images[second, key].digest:
                    yield Pair(key, first, second)

    def check(self) -> None:
        """Check that there is something to vote on.

        Raises:
            ValueError: If there are fewer than two systems, or no two images that differ.
        """
        if len(self.systems) < 2:
            raise ValueError(
                f"expected images by two models or more in {self.folder}, got those of"
                f" {', '.join(self.systems) or 'none'}; finish the run, or name another folder"
            )
        if not self.pairs:
            raise ValueError(
                f"expected images of the same prompts that differ in {self.folder}, got none (systems:"
                f" {', '.join(self.systems)}); name a run after its second evaluation"
            )

    def current(self, votes: Sequence[Vote]) -> list[Vote]:
        """The votes on images that the ballot still has: not of other systems, nor of replaced images.

        A vote that was stored under the former key of an item gets the key of today if both of its images are there.
        """
        found = ((vote, self._item_of(vote)) for vote in votes)
        return [vote if vote.item == key else vote.model_copy(update={"item": key}) for vote, key in found if key]

    def _item_of(self, vote: Vote) -> str | None:
        keys = (vote.item, *self._renamed.get(vote.item, ()))
        return next((key for key in keys if self._has_images(vote, key)), None)

    @cached_property
    def _renamed(self) -> dict[str, list[str]]:
        """Former key -> keys of today."""
        found: dict[str, list[str]] = {}
        for item in self.items.values():
            found.setdefault(item.former, []).append(item.key)
        return found

    def _has_images(self, vote: Vote, key: str) -> bool:
        sides = ((vote.left, vote.left_image), (vote.right, vote.right_image))
        found = [self.images.get((system, key)) for system, _ in sides]
        return all(
            image is not None and image.digest == digest for image, (_, digest) in zip(found, sides, strict=True)
        )

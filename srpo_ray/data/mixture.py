"""Training data of a run: prompts for rollouts, real images with captions, or a mixture in a fixed ratio."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from srpo_ray.data.cache.latents import TOKENS
from srpo_ray.data.cache.shards import Rows
from srpo_ray.data.prompts import prompt_indices
from srpo_ray.models.conditioning import ConditioningSource


@dataclass(frozen=True)
class Prompts:
    """Texts with their features and images, in one order: captions of real images first, then prompts."""

    texts: list[str]
    conditioning: ConditioningSource
    """Text features of all texts."""
    real: Rows | None = None
    """Clean tokens of the real images, whose captions are the first texts."""
    image_ratio: float = 1.0
    """Share of an update's samples that are real images; unused without real images."""

    @property
    def num_real(self) -> int:
        """Number of real images."""
        return 0 if self.real is None else len(self.real)

    def indices(self, update: int, batch_size: int, seed: int) -> list[int]:
        """Select the texts of one update's global batch; images and prompts have separate epochs.

        Args:
            update: Index of the update, from 0.
            batch_size: Size of the global batch.
            seed: Seed of the run.

        Returns:
            `batch_size` indices; those below `num_real` are real images.
        """
        real = real_samples(batch_size, self.image_ratio if self.num_real else 0.0)
        images = iter(prompt_indices(self.num_real, update, sum(real), seed))
        prompts = iter(prompt_indices(len(self.texts) - self.num_real, update, batch_size - sum(real), seed))
        return [next(images) if is_real else self.num_real + next(prompts) for is_real in real]

    def real_tokens(self, indices: Sequence[int]) -> dict[int, Tensor]:
        """Return position in `indices` -> clean tokens `[N, 64]`, for the real images."""
        rows = [row for row, index in enumerate(indices) if index < self.num_real]
        if self.real is None or not rows:
            return {}
        return dict(zip(rows, self.real[[indices[row] for row in rows]][TOKENS], strict=True))


def real_samples(batch_size: int, ratio: float) -> list[bool]:
    """Choose the samples of a global batch that are real images.

    Their positions are evenly spaced and not random, so that every micro-batch has the same number of them for any
    number of workers: all workers must make the same number of transformer calls. The images and prompts themselves are
    drawn at random.

    Args:
        batch_size: Size of the global batch.
        ratio: Share of real images, in [0, 1]; a whole number of samples in each micro-batch.

    Returns:
        One value per sample; true for a real image.
    """
    count = round(ratio * batch_size)
    return [(sample + 1) * count // batch_size > sample * count // batch_size for sample in range(batch_size)]

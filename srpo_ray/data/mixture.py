"""Training data of a run: prompts for rollouts, real images with captions, or a mixture in a fixed ratio."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srpo_ray.config.algorithms.control_words import ControlWords
from srpo_ray.config.size import ImageSize
from srpo_ray.data.cache.latents import TOKENS
from srpo_ray.data.cache.shards import Rows
from srpo_ray.data.prompts import prompt_indices
from srpo_ray.data.rollouts import BaseRollouts
from srpo_ray.models.conditioning import ConditioningSource


@dataclass(frozen=True)
class SampleOrder:
    """The order in which updates go through the samples of a run: first its real images, then its prompts."""

    num_real: int
    """Number of real images."""
    num_prompts: int
    image_ratio: float = 1.0
    """Share of an update's samples that are real images, where there are any."""
    images_per_prompt: int = 1
    """Samples of each prompt, one for each epoch, from the first again when all are used."""

    def indices(self, update: int, batch_size: int, seed: int) -> list[int]:
        """Samples of one update's global batch; images and prompts each go through epochs of their own.

        Args:
            update: Index of the update, from 0.
            batch_size: Size of the global batch.
            seed: Seed of the run.

        Returns:
            `batch_size` indices; below `num_real` they are real images, `num_real + copy * num_prompts + prompt` is a
            prompt.
        """
        real = real_samples(batch_size, self.image_ratio if self.num_real else 0.0)
        images = iter(prompt_indices(self.num_real, update, sum(real), seed))
        prompts = iter(self._prompt_samples(update, batch_size - sum(real), seed))
        return [next(images) if is_real else self.num_real + next(prompts) for is_real in real]

    def _prompt_samples(self, update: int, count: int, seed: int) -> list[int]:
        drawn = prompt_indices(self.num_prompts, update, count, seed)
        epochs = (position // self.num_prompts for position in range(update * count, (update + 1) * count))
        return [
            epoch % self.images_per_prompt * self.num_prompts + prompt
            for epoch, prompt in zip(epochs, drawn, strict=True)
        ]


@dataclass(frozen=True)
class Prompts:
    """Texts and what belongs to each, in one order: first the captions of real images, then prompts."""

    texts: list[str]
    """Text of each sample that rewards read: each prompt comes as often as it has images of the base model."""
    conditioning: ConditioningSource
    """Text features of each sample: of its text, or of another one that conditions the model in its place."""
    real: Rows | None = None
    """Clean tokens of the real images, whose captions are the first texts."""
    image_ratio: float = 1.0
    """Share of an update's samples that are real images, where there are any."""
    images_per_prompt: int = 1
    """Times that the prompts are repeated in `texts`."""
    rollouts: BaseRollouts | None = None
    """Images of the base model for the prompts; None where the trained model samples them."""
    labels: Tensor | None = None
    """Labels `[captions, K]` of the real images, of which K in a row belong to each caption; None is one image each."""
    other_conditioning: ConditioningSource | None = None
    """Text features of another caption of the same images, one for each text; None where images have one caption."""
    sizes: Sequence[ImageSize] | None = None
    """Size of the images of each text; None where all have one size."""
    words: Sequence[ControlWords] | None = None
    """Control words of each sample; None where all have those of the run."""
    keys: Sequence[str] | None = None
    """Key of each sample that tells rows of one text apart; None where each row is its text alone."""

    def size_of(self, indices: Sequence[int]) -> ImageSize | None:
        """Return the size of the images of some texts, which is the same for all; None where all texts have one."""
        if self.sizes is None:
            return None
        (size,) = {self.sizes[index] for index in indices}
        return size

    @property
    def images_per_caption(self) -> int:
        """Real images of each caption."""
        return 1 if self.labels is None else self.labels.shape[1]

    @property
    def num_real(self) -> int:
        """Number of captions of real images."""
        return 0 if self.real is None else len(self.real) // self.images_per_caption

    def indices(self, update: int, batch_size: int, seed: int) -> list[int]:
        """Texts of one update's global batch; see `SampleOrder.indices`."""
        num_prompts = (len(self.texts) - self.num_real) // self.images_per_prompt
        order = SampleOrder(self.num_real, num_prompts, self.image_ratio, self.images_per_prompt)
        return order.indices(update, batch_size, seed)

    def given_tokens(self, indices: Sequence[int]) -> dict[int, Tensor]:
        """Position in `indices` -> clean tokens `[K, N, 64]`, for those that are not to be sampled."""
        found: dict[int, Tensor] = {}
        rows, count = self.real_rows(indices), self.images_per_caption
        if self.real is not None and rows:
            tokens = self.real[[indices[row] * count + image for row in rows for image in range(count)]][TOKENS]
            found |= zip(rows, tokens.unflatten(0, (len(rows), count)), strict=True)
        others = [row for row, index in enumerate(indices) if index >= self.num_real]
        if self.rollouts is not None and others:
            tokens = self.rollouts[[indices[row] - self.num_real for row in others]]
            found |= zip(others, tokens[:, None], strict=True)
        return found

    def real_labels(self, indices: Sequence[int]) -> dict[int, Tensor]:
        """Position in `indices` -> labels `[K]`, for those that have real images with labels."""
        return {} if self.labels is None else {row: self.labels[indices[row]] for row in self.real_rows(indices)}

    def real_rows(self, indices: Sequence[int]) -> list[int]:
        """Positions in `indices` that have real images."""
        return [row for row, index in enumerate(indices) if index < self.num_real]


def stack_rows(values: Mapping[int, Tensor], size: int) -> Tensor | None:
    """Tensors of some rows as one tensor of all `size` rows, with zeros in the others; None if no row has any."""
    if not values:
        return None
    blank = torch.zeros_like(next(iter(values.values())))
    return torch.stack([values.get(row, blank) for row in range(size)])


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

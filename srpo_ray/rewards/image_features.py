"""Memory of the latest images' features: an evaluation scores the same images for several texts."""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor


class ImageFeatures:
    """Features of the latest batches in front of an image encoder. With gradient, every call encodes.

    Args:
        encode: Maps images `[B, 3, H, W]` to features `[B, D]`.
        capacity: Number of batches to keep; two runs that share a replica alternate with two micro-batches each.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], capacity: int = 4) -> None:
        self._encode = encode
        self._latest: deque[tuple[Tensor, Tensor]] = deque(maxlen=capacity)

    def of(self, images: Tensor) -> Tensor:
        """Return the features `[B, D]`, which the caller must not change; equal images are encoded once."""
        if torch.is_grad_enabled():
            return self._encode(images)
        for known, features in self._latest:
            if _same(known, images):
                return features
        features = self._encode(images)
        # Cloned, since the caller may change its images, and a view would keep the whole batch in memory.
        self._latest.append((images.clone(), features))
        return features


def _same(known: Tensor, images: Tensor) -> bool:
    alike = (known.shape, known.dtype, known.device) == (images.shape, images.dtype, images.device)
    return alike and torch.equal(known, images)

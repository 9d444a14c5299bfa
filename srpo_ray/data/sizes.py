"""Sizes of the images of a run that has several: that of a prompt, and that of a real image."""

import hashlib
import math
from collections.abc import Sequence
from statistics import fmean

from srpo_ray.config.size import ImageSize


def prompt_size(prompt: str, sizes: Sequence[ImageSize], seed: int) -> ImageSize:
    """Choose the size of a prompt's images by a hash of its text, so that no order of the data changes it.

    Args:
        prompt: The prompt.
        sizes: Sizes of the run.
        seed: Seed of the run.
    """
    digest = hashlib.blake2b(f"{seed}/size/{prompt}".encode(), digest_size=8).digest()
    return sizes[int.from_bytes(digest, "little") % len(sizes)]


def nearest_size(images: Sequence[ImageSize], sizes: Sequence[ImageSize]) -> ImageSize:
    """Choose the size whose ratio of height to width is nearest to that of an image, so that least of it is cropped.

    Images that are compared have one size, by the geometric mean of their ratios: none is cropped more because of the
    judgement.

    Args:
        images: Heights and widths of the image, or of the images that are compared.
        sizes: Sizes of the run; the first of several with equal ratios is taken.
    """
    ratio = fmean(math.log(image.height / image.width) for image in images)
    # Rounded, so that equal ratios of other sizes are equal.
    return min(sizes, key=lambda size: round(abs(math.log(size.height / size.width) - ratio), 9))

"""Reduction of the direction that all text features of a CLIP-type reward share (LongAlign, arXiv 2410.11817).

A preference model's score has a part that hardly depends on the text: the product of the image feature with the mean
direction of the text features. Training on it alone over-fits. The reduction is linear in the text feature, so it
commutes with the weighted sum of a text query.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.nn.functional import normalize

SMALL_WORLD_PROMPTS = "small_world:train"


@dataclass(frozen=True)
class CommonText:
    """Common direction of text features, and the share of it that they keep."""

    direction: Tensor
    """Unit vector `[D]`."""
    weight: float
    """Share in [0, 1]."""

    @classmethod
    def of(cls, features: Tensor, weight: float) -> "CommonText":
        """Compute the direction of the mean of text features `[N, D]`."""
        return cls(normalize(features.mean(0), dim=0), weight)

    def reduce(self, features: Tensor) -> Tensor:
        """Scale the part of features `[N, D]` along the direction by `weight`: `T - (1 - weight) * (T . u) * u`."""
        along = (features @ self.direction)[:, None] * self.direction
        return features - (1 - self.weight) * along


def read_common_prompts(name: str, source: str) -> list[str]:
    """Read the prompts of a common direction.

    Args:
        name: Name of the reward, for messages.
        source: Path of a text file in UTF-8 with one prompt per line, or `small_world:train`.

    Raises:
        ValueError: If the file cannot be read or has no prompt.
    """
    if source == SMALL_WORLD_PROMPTS:
        from srpo_ray.small_world.prompts import split_prompts

        return split_prompts("train")
    expected = f"reward {name!r}, key `common.prompts`: expected a text file in UTF-8 with one prompt per line"
    try:
        lines = Path(source).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{expected}, or {SMALL_WORLD_PROMPTS}, received {source!r} ({error}); check the path (working folder:"
            f" {Path.cwd()})"
        ) from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"{expected}, received {source!r} without any; add some hundred prompts of the training data")
    return prompts

"""Input spec of a reward model: size, resize and antialiasing. No torch here, because the pool's router imports it."""

from typing import NamedTuple, Protocol

from srpo_ray.config.rewards import Fit


class Framed(Protocol):
    """Model that reads square images: a reward, or its description in the pool.

    Optional attributes: `fit`, by default `crop`, and `antialias`, by default true.
    """

    @property
    def image_size(self) -> int: ...


class InputSpec(NamedTuple):
    """Side of the square in pixels and the resize to it; models with the same input spec read the same pixels."""

    size: int
    fit: Fit = "crop"
    antialias: bool = True
    """Low-pass filter when tensors are downscaled; PIL always filters."""

    @classmethod
    def of(cls, model: Framed) -> "InputSpec":
        """Input spec of a model."""
        return cls(model.image_size, getattr(model, "fit", "crop"), getattr(model, "antialias", True))

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the resized image, before it is cropped or padded to the square."""
        if self.fit == "squash":
            return self.size, self.size
        if self.fit == "crop":
            # The long side is rounded down, as torchvision's Resize does.
            short = min(height, width)
            return self.size * height // short, self.size * width // short
        scale = self.size / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def offset(self, length: int) -> int:
        """Offset of a resized side of `length` pixels in the square; negative if the side is cropped."""
        # Rounded to the nearest for a crop, as in torchvision's CenterCrop; rounded down for padding.
        return -round((length - self.size) / 2) if length > self.size else (self.size - length) // 2

"""How an image becomes the square that a reward model reads. No torch here, as the pool's router knows it too."""

from typing import NamedTuple, Protocol

from srpo_ray.config.rewards import Fit


class Framed(Protocol):
    """Reader of square images: a reward, or its description in the pool.

    Without an attribute `fit` it is `crop`, without an attribute `antialias` it is true.
    """

    @property
    def image_size(self) -> int: ...


class InputSpec(NamedTuple):
    """A square of `size` pixels and the way to it; models with the same input_spec read the same pixels."""

    size: int
    fit: Fit = "crop"
    antialias: bool = True
    """Low-pass filter of tensors that are made smaller; PIL always filters."""

    @classmethod
    def of(cls, model: Framed) -> "InputSpec":
        """The input_spec that a model asks for."""
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
        """Where a resized side of `length` pixels begins in the square; negative where its ends are cut off."""
        # To the nearest where it is cropped, as torchvision's CenterCrop does; rounded down where it is padded.
        return -round((length - self.size) / 2) if length > self.size else (self.size - length) // 2

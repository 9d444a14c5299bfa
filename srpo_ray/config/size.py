"""Size of images in pixels: height and width, and the values of a config that give it."""

from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator

STEP = 16
"""Pixels of an image token per side in all supported families, of which every side is a multiple."""


class ImageSize(NamedTuple):
    """Height and width of images in pixels. A square is written as one number."""

    height: int
    width: int

    @classmethod
    def of(cls, resolution: "int | tuple[int, int]") -> "ImageSize":
        """Return the size that a value of a config gives."""
        return cls(resolution, resolution) if isinstance(resolution, int) else cls(*resolution)

    @property
    def resolution(self) -> "int | tuple[int, int]":
        """Value of a config that gives the size: one number for a square, so that it is equal in old configs."""
        return self.height if self.height == self.width else (self.height, self.width)

    @property
    def num_tokens(self) -> int:
        """Number of image tokens."""
        return (self.height // STEP) * (self.width // STEP)

    @property
    def num_pixels(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    def __str__(self) -> str:
        """Write the size as in a config: `1024` or `[768, 1344]`."""
        return str(self.height) if self.height == self.width else f"[{self.height}, {self.width}]"


def nearest_sizes(size: ImageSize, step: int) -> str:
    """Name the nearest sizes whose sides are multiples of a number of pixels, the smaller one first."""
    lower = ImageSize(*(max(step, side // step * step) for side in size))
    upper = ImageSize(*(max(step, -(-side // step) * step) for side in size))
    return f"{lower}" if lower == upper else f"{lower} and {upper}"


def parse_size(option: str, text: str) -> "int | tuple[int, int]":
    """Read the size of images from a command line: `1024`, or height and width as `768x1344`.

    Args:
        option: Name of the option, for messages.
        text: Its value.

    Raises:
        ValueError: If it is no size.
    """
    sides = text.lower().split("x")
    if not all(side.isascii() and side.isdigit() for side in sides):
        raise ValueError(f"{option}: expected a size such as 1024, or HEIGHTxWIDTH such as 768x1344, got {text!r}")
    try:
        return _resolution([int(side) for side in sides] if len(sides) > 1 else int(text))
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


def _resolution(value: Any) -> "int | tuple[int, int]":
    sides = tuple(value) if isinstance(value, list | tuple) else (value, value)
    expected = f"expected one number of pixels for squares, or [height, width], each a multiple of {STEP}"
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides):
        raise ValueError(f"{expected}, got {value!r}; give a size such as 1024 or [768, 1344]")
    size = ImageSize(*sides)
    if any(side < STEP or side % STEP for side in size):
        raise ValueError(f"{expected}, got {size}; choose a size near it ({nearest_sizes(size, STEP)})")
    return size.resolution


Resolution = Annotated[int | tuple[int, int], BeforeValidator(_resolution)]
"""Size of images: one number for squares, or height and width. Two equal numbers are read as one."""

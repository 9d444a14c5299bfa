"""Weights of a pipeline's part, read tensor by tensor from its safetensors files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from srpo_ray.models.paths import pipeline_file, resolve_path, unreadable

_FILE = "diffusion_pytorch_model.safetensors"
_SHOWN = 3


class WeightFiles:
    """Files of a part's weights. They are memory-mapped, so reading a tensor takes no memory but the page cache's."""

    def __init__(self, path: str, part: str) -> None:
        """Find the files and the names of their tensors.

        Args:
            path: Folder or hub id of the pipeline, or `small_world`.
            part: Folder inside it, such as `transformer`.

        Raises:
            ValueError: If a file is missing, or cannot be read.
        """
        self._path, self._part = path, part
        try:
            self._files = _files(resolve_path(path), part)
            self._shapes = {name: shape for file in self._files for name, shape in _shapes(file).items()}
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(unreadable(path, part, error)) from error

    def require(self, expected: Mapping[str, Sequence[int]], class_name: str) -> None:
        """Check that the files have exactly the expected tensors.

        Args:
            expected: Name of a tensor -> its shape.
            class_name: Class of the model, for the message.

        Raises:
            ValueError: If tensors are missing or surplus; the message has their number and the first names. If a tensor
                has another shape.
        """
        missing, unexpected = sorted(set(expected) - set(self._shapes)), sorted(set(self._shapes) - set(expected))
        if missing or unexpected:
            raise ValueError(incomplete(self._path, self._part, class_name, missing, unexpected))
        for name, shape in expected.items():
            if self._shapes[name] != tuple(shape):
                error = ValueError(f"expected {name} with the shape {tuple(shape)}, got {self._shapes[name]}")
                raise ValueError(unreadable(self._path, self._part, error))

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Read names and tensors, one at a time, on the CPU and in the data type of the file.

        Raises:
            ValueError: If a file cannot be read.
        """
        try:
            for file in self._files:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118, not a mapping
                        yield name, opened.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ValueError(unreadable(self._path, self._part, error)) from error


def incomplete(path: str, part: str, class_name: str, missing: list[str], unexpected: list[str]) -> str:
    """Build the error message for weights that are not those of a model."""
    return (
        f"model.path: expected exactly the weights of a {class_name} in {part} of {path!r}, got a file with"
        f" {_listed(missing)} missing and {_listed(unexpected)} unexpected; download or save it again"
    )


def _listed(keys: list[str]) -> str:
    shown = ", ".join(keys[:_SHOWN])
    return f"{len(keys)} ({shown}{', ...' if len(keys) > _SHOWN else ''})" if keys else "none"


def _files(path: str, part: str) -> list[Path]:
    """Return the only file, or those of the index, which a large model has beside its parts."""
    try:
        index = pipeline_file(path, f"{part}/{_FILE}.index.json")
    except ValueError:
        return [pipeline_file(path, f"{part}/{_FILE}")]
    names = dict.fromkeys(json.loads(index.read_text())["weight_map"].values())
    return [pipeline_file(path, f"{part}/{name}") for name in names]


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(file, framework="pt") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118

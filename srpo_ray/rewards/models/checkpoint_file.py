"""Weights of a reward model from one published file: locate, verify and load them completely or not at all."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from srpo_ray.rewards.reading import UNREADABLE, reason_of

_SHOWN = 3
_HUB = "hf-hub:"


def find_checkpoint(name: str, source: str) -> Path:
    """Return the path of a local file, or of a file of the Hugging Face hub, which is downloaded once.

    Args:
        name: Name of the reward, for messages.
        source: Path of the file, or `hf-hub:ORG/NAME/FILE`.

    Raises:
        ValueError: If there is no such file, or it cannot be downloaded.
    """
    if source.startswith(_HUB):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        organisation, _, rest = source.removeprefix(_HUB).partition("/")
        repository, _, file = rest.partition("/")
        try:
            return Path(hf_hub_download(f"{organisation}/{repository}", file))
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise ValueError(
                f"reward {name!r}: expected a file of the hub as hf-hub:ORG/NAME/FILE, received {source!r}, which"
                f" cannot be downloaded ({type(error).__name__}: {error}); check the name and the network, accept the"
                " licence of a gated model and log in, or download the file and give its path"
            ) from error
    path = Path(source)
    if not path.is_file():
        received = "a folder" if path.is_dir() else "no file"
        raise ValueError(
            f"reward {name!r}: expected a checkpoint file at {path.absolute()}, received {received}; check `path`"
        )
    return path


def read_state_dict(name: str, path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file or of a `torch.save` file, at its top level or under `state_dict`.

    Only tensors and plain values are unpickled. The prefix `module.` of data-parallel training is removed.

    Args:
        name: Name of the reward, for messages.
        path: Path of the file.
        sha256: Required SHA-256 of the file; None accepts any.

    Raises:
        ValueError: If the hash differs, or the file cannot be read or contains no tensors by name.
    """
    where = f"reward {name!r}: expected a checkpoint in {path}"
    if sha256 is not None:
        found = _hash(name, path)
        if found != sha256:
            raise ValueError(f"{where} with sha256 {sha256}, received {found}; download it again, or correct `sha256`")
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(f"{where} that can be read, received {reason_of(error)}; download it again") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ValueError(
            f"{where} with tensors by name, received a {type(content).__name__}; choose the weights' file, or download"
            " it again"
        )
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{where} with tensors by name, received a {type(value).__name__} under {key!r}; choose the weights'"
                " file, or download it again"
            )
    return {key.removeprefix("module."): tensor for key, tensor in content.items()}


def _hash(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(
            f"reward {name!r}: expected a checkpoint in {path} that can be read, received {error}; check the file's"
            " permissions, or download it again"
        ) from error


def load_strictly(name: str, model: nn.Module, state: dict[str, Tensor], published: Callable[[str], str] = str) -> None:
    """Copy weights into a model if names and shapes match exactly; the model keeps its data types.

    A checkpoint in float16 or bfloat16 is thus converted to the model's float32.

    Args:
        name: Name of the reward, for messages.
        model: Model that is changed in place.
        state: Tensors by their published names.
        published: Maps a name of the model to the published one.

    Raises:
        ValueError: If names or shapes differ, or tensors are sparse or integers where the model's are not; the first
            few are named.
    """
    own = model.state_dict()
    expected = {published(key): tensor.shape for key, tensor in own.items()}
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    common = set(expected) & set(state)
    shaped = sorted(key for key in common if expected[key] != state[key].shape)
    kinds = {published(key): _kind(tensor) for key, tensor in own.items()}
    typed = sorted(key for key in common if kinds[key] != _kind(state[key]))
    problems = {"missing": missing, "unknown": extra, "of another shape": shaped, "of another type": typed}
    told = [
        f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})"
        for what, keys in problems.items()
        if keys
    ]
    if told:
        raise ValueError(
            f"reward {name!r}: expected the {len(expected)} weights of its architecture, received a checkpoint with"
            f" {'; '.join(told)}; choose the architecture that the checkpoint was trained with"
        )
    model.load_state_dict({key: state[published(key)] for key in own}, strict=True)


def _kind(tensor: Tensor) -> tuple[bool, bool, torch.layout]:
    """Properties that a copy into another tensor cannot convert, or only by losing the meaning."""
    return tensor.is_floating_point(), tensor.is_complex(), tensor.layout

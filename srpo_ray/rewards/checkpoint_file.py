"""Weights of a reward model from one file, as they are published: found, checked and put in whole or not at all."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

_SHOWN = 3
_HUB = "hf-hub:"


def find_checkpoint(name: str, source: str) -> Path:
    """A local file, or one of the Hugging Face hub, downloaded once.

    Args:
        name: The reward, for messages.
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
                f" cannot be had ({type(error).__name__}: {error}); check the name and the network, for a gated one"
                " accept its licence and log in, or download it and give its path"
            ) from error
    path = Path(source)
    if not path.is_file():
        received = "a folder" if path.is_dir() else "no file"
        raise ValueError(
            f"reward {name!r}: expected a checkpoint file at {path.absolute()}, received {received}; check `path`"
        )
    return path


def read_state_dict(name: str, path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of what `torch.save` wrote: alone, or under the key `state_dict`.

    Nothing but tensors and plain values is unpickled. The prefix `module.` of data-parallel training is taken off.

    Args:
        name: The reward, for messages.
        path: The file.
        sha256: What the file must hash to; None takes any.

    Raises:
        ValueError: If it is another file than the one hashed, cannot be read, or holds no tensors by name.
    """
    where = f"reward {name!r}: expected a checkpoint in {path}"
    try:
        if sha256 is not None:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256:
                raise ValueError(
                    f"{where} with sha256 {sha256}, received {found}; download it again, or correct `sha256`"
                )
        content: Any
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise ValueError(
            f"{where} that can be read, received {type(error).__name__}: {str(error)[:200]}; download it again"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{where} with tensors by name, received a {type(content).__name__}; choose the weights' file")
    return {key.removeprefix("module."): tensor for key, tensor in content.items()}


def load_strictly(name: str, model: nn.Module, state: dict[str, Tensor], published: Callable[[str], str] = str) -> None:
    """Put weights into a model, if they are exactly its own.

    Args:
        name: The reward, for messages.
        model: Takes the weights.
        state: Tensors by the name that they are published under.
        published: From a name of the model to the published one, where they differ.

    Raises:
        ValueError: If names or shapes differ; the first few are named.
    """
    own = model.state_dict()
    expected = {published(key): tensor.shape for key, tensor in own.items()}
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    shaped = sorted(key for key in set(expected) & set(state) if expected[key] != state[key].shape)
    problems = [
        f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})"
        for what, keys in (("missing", missing), ("unknown", extra), ("of another shape", shaped))
        if keys
    ]
    if problems:
        raise ValueError(
            f"reward {name!r}: expected the {len(expected)} weights of its architecture, received a checkpoint with"
            f" {'; '.join(problems)}; choose the architecture that the checkpoint was trained with"
        )
    model.load_state_dict({key: state[published(key)] for key in own}, strict=True)

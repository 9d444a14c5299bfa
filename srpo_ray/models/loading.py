"""Loading of a pipeline's transformer and autoencoder directly onto their device."""

from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError

from srpo_ray.models.exact_time import embed_exact_times
from srpo_ray.models.families import family_of
from srpo_ray.models.paths import resolve_path, unreadable

_SHOWN = 3


def load_transformer(path: str, dtype: torch.dtype, device: str = "cpu") -> Any:
    """Load a pipeline's transformer, ready for `exact_times`.

    Args:
        path: Folder or hub id of the pipeline, or `small_world`.
        dtype: Data type of the weights.
        device: Device of the weights.

    Raises:
        ValueError: If there is no complete, readable transformer of the pipeline's family.
    """
    transformer = _load(getattr(diffusers, family_of(path).transformer), path, "transformer", dtype, device)
    embed_exact_times(transformer)
    return transformer


def load_vae(path: str, dtype: torch.dtype, device: str = "cpu") -> AutoencoderKL:
    """Load a pipeline's VAE onto a device, frozen.

    Raises:
        ValueError: If there is no complete, readable VAE.
    """
    return _load(AutoencoderKL, path, "vae", dtype, device).requires_grad_(False).eval()


def _load(model_class: Any, path: str, part: str, dtype: torch.dtype, device: str) -> Any:
    try:
        # The file is memory-mapped. Until its tensors are moved to the device, one by one, the only copy in memory is
        # the page cache, which all workers of a machine share.
        module, found = model_class.from_pretrained(
            resolve_path(path), subfolder=part, torch_dtype=dtype, output_loading_info=True
        )
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise ValueError(unreadable(path, part, error)) from error
    missing, unexpected = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    if missing or unexpected:
        raise ValueError(
            f"model.path: expected exactly the weights of a {model_class.__name__} in {part} of {path!r}, got a file"
            f" with {_listed(missing)} missing and {_listed(unexpected)} unexpected; download or save it again"
        )
    return module.to(device)


def _listed(keys: list[str]) -> str:
    shown = ", ".join(keys[:_SHOWN])
    return f"{len(keys)} ({shown}{', ...' if len(keys) > _SHOWN else ''})" if keys else "none"

"""Loading of a pipeline's transformer and autoencoder directly onto their device."""

from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError

from srpo_ray.config.model import BaseType
from srpo_ray.models.exact_time import embed_exact_times
from srpo_ray.models.families import family_of
from srpo_ray.models.merged_lora import MergedLora
from srpo_ray.models.paths import resolve_path, unreadable
from srpo_ray.models.quantized import check_base, load_quantized
from srpo_ray.models.weight_files import incomplete


def load_transformer(
    path: str,
    dtype: torch.dtype,
    device: str = "cpu",
    base: BaseType | None = None,
    merged: MergedLora | None = None,
) -> Any:
    """Load a pipeline's transformer, ready for `exact_times`.

    Args:
        path: Folder or hub id of the pipeline, or `small_world`.
        dtype: Data type of the weights.
        device: Device of the weights.
        base: Type of the weights of the blocks' linear layers, which are then frozen; None keeps `dtype`.
        merged: LoRA that is added to the weights, before they are quantised.

    Raises:
        ValueError: If there is no complete, readable transformer of the pipeline's family, or this machine does not
            support the type of its base, or the LoRA has other layers.
    """
    family = family_of(path)
    model_class = getattr(diffusers, family.transformer)
    if base:
        check_base(base, device)
        config = transformer_config(model_class, path)
        transformer = load_quantized(model_class, path, config, base, family.blocks, dtype, device, merged)
    else:
        transformer = _load(model_class, path, "transformer", dtype, device)
        if merged:
            merged.add_to(dict(transformer.named_parameters()))
    embed_exact_times(transformer)
    return transformer


def load_vae(path: str, dtype: torch.dtype, device: str = "cpu") -> Any:
    """Load a pipeline's VAE onto a device, frozen.

    Raises:
        ValueError: If there is no complete, readable VAE.
    """
    vae_class = getattr(diffusers, family_of(path).vae)
    return _load(vae_class, path, "vae", dtype, device).requires_grad_(False).eval()


def hide_progress_bars() -> None:
    """Hide the progress bars of diffusers and transformers in this process, which would interrupt a command's own."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _load(model_class: Any, path: str, part: str, dtype: torch.dtype, device: str) -> Any:
    try:
        # The file is memory-mapped. Until its tensors are moved to the device, one by one, the only copy in memory is
        # the page cache, which all workers of a machine share.
        module, found = model_class.from_pretrained(
            resolve_path(path), subfolder=part, dtype=dtype, output_loading_info=True
        )
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise ValueError(unreadable(path, part, error)) from error
    missing, unexpected = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    if missing or unexpected:
        raise ValueError(incomplete(path, part, model_class.__name__, missing, unexpected))
    return module.to(device)


def transformer_config(model_class: Any, path: str) -> Any:
    """Read the config of a pipeline's transformer.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        return model_class.load_config(resolve_path(path), subfolder="transformer")
    except (OSError, ValueError) as error:
        raise ValueError(unreadable(path, "transformer", error)) from error

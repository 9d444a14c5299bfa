"""Small decoder (diffusers' `AutoencoderTiny`) for the images that rewards score in training."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srpo_ray.config.model import ModelConfig
from srpo_ray.models.families import family_of
from srpo_ray.models.paths import is_hub_id, pipeline_file, resolve_path

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderTiny

_CLASS = "AutoencoderTiny"


def decoder_config(path: str) -> dict[str, Any]:
    """Read the `config.json` of a tiny autoencoder.

    Args:
        path: Folder or hub id.

    Raises:
        ValueError: If it cannot be read, or is the config of another class.
    """
    try:
        if is_hub_id(path):
            from huggingface_hub import hf_hub_download

            file = Path(hf_hub_download(path, "config.json"))
        else:
            file = Path(path) / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.decoder: expected a folder or hub id of an {_CLASS} with a config.json, got {path!r}"
            f" ({type(error).__name__}: {str(error).splitlines()[0]}); correct the path or the network, or remove"
            " model.decoder to decode with the pipeline's VAE"
        ) from error
    name = config.get("_class_name") if isinstance(config, dict) else None
    if name != _CLASS:
        raise ValueError(
            f"model.decoder: expected an {_CLASS}, got {name!r} in {path!r}; choose a tiny autoencoder of the model's"
            " latents, for example madebyollin/taef1 for FLUX.1, or remove model.decoder"
        )
    return config


def check_decoder(model: ModelConfig) -> None:
    """Check from the configs alone that a run's tiny decoder reads the latents of its pipeline's VAE.

    Raises:
        ValueError: If a config cannot be read, or channels or scale do not match.
    """
    if not model.decoder:
        return
    family = family_of(model.path)
    if family.vae != "AutoencoderKL":
        raise ValueError(
            f"model.decoder: expected none for a {family.pipeline}, whose latents ({family.vae}) have no scale and"
            f" shift that an {_CLASS} reads, got {model.decoder!r}; remove model.decoder"
        )
    from srpo_ray.models.latents import vae_shape

    tiny = decoder_config(model.decoder)
    vae = json.loads(pipeline_file(resolve_path(model.path), "vae/config.json").read_text(encoding="utf-8"))
    scale = tiny.get("upsampling_scaling_factor", 2) ** (len(tiny.get("num_decoder_blocks", (3, 3, 3, 1))) - 1)
    found = (tiny.get("latent_channels", 4), scale, tiny.get("out_channels", 3))
    pixels, channels = vae_shape(vae)
    expected = (channels, pixels, 3)
    if found != expected:
        shape = "{} latent channels, {} times larger images and {} colours"
        raise ValueError(
            f"model.decoder: expected {shape.format(*expected)}, as the VAE of {model.path} has, got"
            f" {shape.format(*found)} in {model.decoder!r}; choose the tiny autoencoder of this model's latents, or"
            " remove model.decoder"
        )


def load_decoder(model: ModelConfig, dtype: "torch.dtype", device: str) -> "AutoencoderTiny | None":
    """Load a run's tiny decoder onto a device, frozen; None if the run has none.

    Raises:
        ValueError: If it does not match the pipeline, or its weights cannot be read.
    """
    if not model.decoder:
        return None
    import torch
    from diffusers import AutoencoderTiny
    from safetensors import SafetensorError

    check_decoder(model)
    # diffusers' annotation lacks the loading info.
    model_class: Any = AutoencoderTiny
    try:
        decoder, found = model_class.from_pretrained(model.decoder, dtype=dtype, output_loading_info=True)
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise ValueError(
            f"model.decoder: expected readable weights of an {_CLASS}, got {model.decoder!r} ({str(error)[:300]});"
            " download or save it again"
        ) from error
    if found["missing_keys"] or found["unexpected_keys"]:
        raise ValueError(
            f"model.decoder: expected exactly the weights of its config, got {model.decoder!r} with"
            f" {len(found['missing_keys'])} missing and {len(found['unexpected_keys'])} unknown tensors; download or"
            " save it again"
        )
    if model.vae_checkpointing:
        decoder.enable_gradient_checkpointing()
    if model.vae_channels_last:
        torch.nn.Module.to(decoder, memory_format=torch.channels_last)
    return decoder.to(device).requires_grad_(False).eval()

"""Names of LoRA files of Krea 2 that diffusers does not convert: those of kohya's musubi-tuner."""

from collections.abc import Mapping

from torch import Tensor

_KOHYA, _AUTHORS = "lora_unet_", "diffusion_model."
_WITH_UNDERSCORE = ("layerwise_blocks", "refiner_blocks")
"""Names of modules that contain an underscore themselves."""


def with_authors_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert kohya's names to those of the model's authors, which diffusers and ComfyUI read.

    musubi-tuner writes the path of a module with underscores: `blocks.0.attn.wq` is `lora_unet_blocks_0_attn_wq`. Its
    conversion for ComfyUI has `diffusion_model.blocks.0.attn.wq`. In both, the matrices are `lora_down` and `lora_up`,
    which diffusers knows as `lora_A` and `lora_B`.

    Args:
        tensors: Name -> tensor of a file.

    Returns:
        The same tensors; other names are kept.
    """
    return {_renamed(name): tensor for name, tensor in tensors.items()}


def _renamed(name: str) -> str:
    if name.startswith(_KOHYA):
        module, _, rest = name.removeprefix(_KOHYA).partition(".")
        module = module.replace("_", ".")
        for known in _WITH_UNDERSCORE:
            module = module.replace(known.replace("_", "."), known)
        name = f"{_AUTHORS}{module}.{rest}"
    return name.replace(".lora_down.", ".lora_A.").replace(".lora_up.", ".lora_B.")

"""Adapters of a LoRA file that a run trains on: `model.lora.start_mode: continue`."""

from collections.abc import Mapping

from torch import Tensor, nn

from srpo_ray.config.model import LoraConfig, ModelConfig
from srpo_ray.models.families import family_of
from srpo_ray.models.lora_files import KEY, LoraLayer, is_kohya, read_lora, shown

DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"


def continued_adapters(model: ModelConfig, transformer: nn.Module, *, shapes_only: bool = False) -> dict[str, Tensor]:
    """Read the adapters that a run starts from, in the scale of `model.lora`.

    Args:
        model: Section `model` with a LoRA to continue.
        transformer: Transformer with the run's adapters.
        shapes_only: Read no matrices, see `read_lora`.

    Returns:
        Name of the trainable parameter -> float32 weights.

    Raises:
        ValueError: If the LoRA cannot be read, or its layers or rank are not those of `model.lora`.
    """
    lora = model.lora
    assert lora is not None, "only a run with adapters continues a LoRA"
    path = lora.continued
    assert path is not None, "the caller has checked that there is a LoRA to continue"
    layers = read_lora(path, family_of(model.path), shapes_only=shapes_only)
    own = {name.removesuffix(DOWN) for name, _ in transformer.named_parameters() if name.endswith(DOWN)}
    _check_layers(path, layers, own)
    # The header of a file with fused layers does not tell the rank of each.
    if not (shapes_only and is_kohya(path)):
        _check_rank(path, layers, lora)
    return adapter_weights(layers, lora)


def adapter_weights(layers: Mapping[str, LoraLayer], lora: LoraConfig) -> dict[str, Tensor]:
    """Write adapters as weights of a transformer with adapters, in the scale of `model.lora`.

    Args:
        layers: Name of the transformer's layer -> adapter.
        lora: Section `model.lora`.

    Returns:
        Name of the trainable parameter -> float32 weights.
    """
    downs = {f"{name}{DOWN}": layer.down.float() for name, layer in layers.items()}
    return downs | {f"{name}{_UP}": layer.up.float() * (layer.scale / lora.scale) for name, layer in layers.items()}


def _check_layers(path: str, layers: Mapping[str, LoraLayer], own: set[str]) -> None:
    others, missing = sorted(set(layers) - own), sorted(own - set(layers))
    if others or missing:
        raise ValueError(
            f"{KEY}: expected adapters of exactly the layers of model.lora.target_modules, {shown(sorted(own))}, got"
            f" {path!r} with {len(layers)} layers: unmatched {shown(others)}, missing {shown(missing)}; set"
            " target_modules to the layers of the file, or start_mode to merge, which takes any layers of the model"
        )


def _check_rank(path: str, layers: Mapping[str, LoraLayer], lora: LoraConfig) -> None:
    ranks = sorted({layer.rank for layer in layers.values()})
    if ranks != [lora.rank]:
        raise ValueError(
            f"{KEY}: expected adapters of model.lora.rank={lora.rank} to continue, got {path!r} of rank"
            f" {', '.join(map(str, ranks))}; set model.lora.rank to it, or start_mode to merge, which takes any rank"
        )

"""LoRA files of diffusers, kohya and ComfyUI, and adapters of checkpoints, as layers with a scale."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import diffusers
import peft
import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from torch import Tensor

from srpo_ray.models.families import KREA2, Family
from srpo_ray.models.krea2_names import with_authors_names

KEY = "model.lora.start_from"
_PREFIX = "transformer."
_DOWN, _UP, _ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"
_OTHER_KINDS = {"dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", ".lokr_": "LoKr", ".hada_": "LoHa"}
"""Parts of tensor names -> kind of adapters that is no LoRA."""
_MANIFEST = "manifest.json"
_SHOWN = 3

Scale = Callable[[str], float]
"""Function from the name of a layer to the scale of its adapter."""


@dataclass(frozen=True)
class LoraLayer:
    """Adapter of one linear layer, whose output is `scale * up @ down @ input`."""

    down: Tensor
    """Matrix A `[rank, in]`."""
    up: Tensor
    """Matrix B `[out, rank]`."""
    scale: float
    """Factor of the product: alpha / rank."""

    @property
    def rank(self) -> int:
        """Rank of the adapter."""
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weights that it adapts, `(out, in)`."""
        return self.up.shape[0], self.down.shape[1]

    def delta(self, device: torch.device) -> Tensor:
        """Compute the change of the layer's weights `[out, in]` in float32 on a device."""
        return self.scale * (self.up.to(device, torch.float32) @ self.down.to(device, torch.float32))


def read_lora(path: str, family: Family, *, shapes_only: bool = False) -> dict[str, LoraLayer]:
    """Read adapters from a file or a folder.

    diffusers converts the names of other programs, for the families that it supports. Those of kohya for Krea 2 are
    converted here.

    Args:
        path: LoRA file; folder with `pytorch_lora_weights.safetensors` or with a single LoRA file, such as an export;
            or folder of a checkpoint.
        family: Family of the model.
        shapes_only: Read the files' headers and the alphas only. The matrices are ones, and their ranks are those of
            the fused layers where a file of kohya fuses several.

    Returns:
        Name of the transformer's layer -> adapter.

    Raises:
        ValueError: If there is no such file, it cannot be read, or it is no LoRA of this family's transformer.
    """
    files, state = adapter_files(path)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    try:
        for file in files:
            with safe_open(file, framework="pt") as opened:
                metadata |= opened.metadata() or {}
                tensors |= {name: _tensor(opened, name, shapes_only) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{KEY}: expected a readable file, got {path!r} ({error}); download or save it again"
        ) from error
    if state is not None:
        return _of_checkpoint(path, tensors, state)
    return _of_file(path, tensors, metadata, family)


def adapter_files(path: str) -> tuple[list[Path], dict[str, Any] | None]:
    """Find the files of adapters.

    Args:
        path: File or folder, as `read_lora` takes it.

    Returns:
        The files, and the state of the run for the folder of a checkpoint.

    Raises:
        ValueError: If there is no such file.
    """
    place = Path(path)
    if place.is_file() and place.suffix == ".safetensors":
        return [place], None
    if (place / _MANIFEST).is_file():
        manifest = json.loads((place / _MANIFEST).read_text(encoding="utf-8"))
        for kind in ("ema", "weights"):
            found = sorted(place / name for name in manifest["files"] if name.startswith(f"{kind}-"))
            if found:
                return found, manifest["state"]
    found = sorted(place.glob("*.safetensors")) if place.is_dir() else []
    if place / LORA_WEIGHT_NAME_SAFE in found:
        return [place / LORA_WEIGHT_NAME_SAFE], None
    if len(found) == 1:
        return found, None
    received = "no such file or folder" if not place.exists() else f"{len(found)} .safetensors files there"
    raise ValueError(
        f"{KEY}: expected a LoRA file (.safetensors), a folder with {LORA_WEIGHT_NAME_SAFE} or with one .safetensors"
        f" file, or the folder of a checkpoint (runs/NAME/checkpoints/update_...), got {path!r}, {received}; give the"
        " file, or the folder that `srpo-ray export` wrote"
    )


def _tensor(opened: Any, name: str, shapes_only: bool) -> Tensor:
    if not shapes_only:
        return opened.get_tensor(name)
    shape = opened.get_slice(name).get_shape()
    # Ones take no memory, and a converter finds no zeros in them that it would drop.
    return torch.ones((), dtype=torch.bfloat16).expand(shape) if len(shape) > 1 else opened.get_tensor(name)


def _of_checkpoint(path: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> dict[str, LoraLayer]:
    lora = state.get("model.lora")
    if not lora:
        raise ValueError(
            f"{KEY}: expected a checkpoint of a run with model.lora, got {path!r} of a run that trained the whole"
            " model; export that run, and set model.path to a pipeline with its transformer"
        )
    if lora.get("merged"):
        raise ValueError(
            f"{KEY}: expected adapters of the published model, got the checkpoint {path!r} of a run that merged"
            f" {lora['merged']!r} into it; start from the export of that run, which contains both"
        )
    return trained_adapters(path, tensors, (lora["alpha"] or lora["rank"]) / lora["rank"])


def trained_adapters(path: str, weights: Mapping[str, Tensor], scale: float) -> dict[str, LoraLayer]:
    """Read adapters from the trained weights of a run.

    Args:
        path: Place of the weights, for messages.
        weights: Name of the trainable parameter -> weights.
        scale: alpha / rank of the run.

    Raises:
        ValueError: If they are not two matrices for each layer.
    """
    return _paired(path, {name.replace(".default.", "."): weights[name] for name in weights}, lambda _: scale)


def _of_file(
    path: str, tensors: dict[str, Tensor], metadata: Mapping[str, str], family: Family
) -> dict[str, LoraLayer]:
    for part, kind in _OTHER_KINDS.items():
        found = next((name for name in tensors if part in name), None)
        if found:
            raise ValueError(f"{KEY}: expected LoRA adapters, got {kind} in {path!r} ({found}); convert it to a LoRA")
    tensors = with_authors_names(tensors) if family is KREA2 else tensors
    folded = _with_alphas(tensors)
    named = _converted(path, folded, family)
    others = [name for name in named if not name.startswith(_PREFIX)]
    if others:
        raise ValueError(
            f"{KEY}: expected adapters of the {family.transformer} alone, got {path!r} with {len(named)} tensors, of"
            f" which others are {shown(others)}; give a LoRA of this family without adapters of text encoders"
        )
    scales = _scales(path, metadata)
    if scales and len(folded) < len(tensors):
        raise ValueError(f"{KEY}: expected alpha tensors or metadata of diffusers, got both in {path!r}; save it again")
    return _paired(
        path, {name.removeprefix(_PREFIX): value for name, value in named.items()}, scales or (lambda _: 1.0)
    )


def _with_alphas(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Multiply matrices B by alpha / rank, and drop the alphas, which not all converters of diffusers know.

    It applies to matrices of diffusers' names; the converters do so with those of kohya.
    """
    found = dict(tensors)
    for name in tensors:
        layer = name.removesuffix(_DOWN)
        alpha = found.pop(layer + _ALPHA, None) if name.endswith(_DOWN) else None
        if alpha is not None and layer + _UP in tensors:
            found[layer + _UP] = tensors[layer + _UP].float() * (float(alpha) / tensors[name].shape[0])
    return found


def _converted(path: str, tensors: dict[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Convert names and scales to those of diffusers."""
    pipeline: Any = getattr(diffusers, family.pipeline)
    try:
        named = pipeline.lora_state_dict(dict(tensors))
    except (ValueError, KeyError, IndexError, AssertionError, RuntimeError) as error:
        raise ValueError(
            f"{KEY}: expected a LoRA that the {family.pipeline} of diffusers reads, got {path!r} with the"
            f" tensors {shown(tensors)}: {str(error)[:200]}; give a LoRA of this family"
        ) from error
    return named if any(_DOWN in name for name in named) else convert_unet_state_dict_to_peft(named)


def _scales(path: str, metadata: Mapping[str, str]) -> Scale | None:
    """Return a function from a layer's name to its scale by diffusers' metadata; None without metadata."""
    text = metadata.get(LORA_ADAPTER_METADATA_KEY)
    values = json.loads(text) if text else {}
    values = {name.removeprefix(_PREFIX): value for name, value in values.items() if name.startswith(_PREFIX)}
    if not values:
        return None
    adapters = peft.LoraConfig(**values)
    if adapters.use_dora:
        raise ValueError(f"{KEY}: expected LoRA adapters, got DoRA in {path!r} (use_dora); convert it to a LoRA")

    def scale(layer: str) -> float:
        ranks, alphas = adapters.rank_pattern or {}, adapters.alpha_pattern or {}
        rank = ranks.get(get_pattern_key(list(ranks), layer), adapters.r)
        alpha = alphas.get(get_pattern_key(list(alphas), layer), adapters.lora_alpha)
        return alpha / (sqrt(rank) if adapters.use_rslora else rank)

    return scale


def _paired(path: str, tensors: Mapping[str, Tensor], scale: Scale) -> dict[str, LoraLayer]:
    """Combine the two matrices of each layer."""
    layers = sorted({name.removesuffix(_DOWN).removesuffix(_UP) for name in tensors})
    expected = {layer + end for layer in layers for end in (_DOWN, _UP)}
    odd = sorted(set(tensors) ^ expected)
    if odd or not layers:
        raise ValueError(
            f"{KEY}: expected two matrices for each layer ({_DOWN}, {_UP}), got {path!r} with {len(tensors)} tensors,"
            f" of which these are unpaired: {shown(odd)}; give a LoRA of linear layers without biases"
        )
    return {layer: LoraLayer(tensors[layer + _DOWN], tensors[layer + _UP], scale(layer)) for layer in layers}


def is_kohya(path: str) -> bool:
    """True for files with kohya's names, where one matrix A may belong to several layers, each with a part of its rank.

    Raises:
        ValueError: If there is no such file.
    """
    files, _ = adapter_files(path)
    return any(".lora_down." in name for file in files for name in safe_open(file, framework="pt").keys())  # noqa: SIM118


def shown(names: Collection[str]) -> str:
    """Return the number of names and the first ones, such as `4 (a, b, c, ...)`."""
    first = ", ".join([*names][:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} ({first})" if names else "none"

"""Export of a run's model for other programs: diffusers' LoRA or transformer, and ComfyUI's LoRA."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import peft
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from srpo_ray.config import RunConfig
from srpo_ray.config.model import LoraConfig, ModelConfig
from srpo_ray.files import replacing, write_text
from srpo_ray.inference.model_card import model_card
from srpo_ray.models.families import family_of
from srpo_ray.models.lora_files import LoraLayer, read_lora
from srpo_ray.models.trainable import load_tuned, model_dtype
from srpo_ray.runs.trained import TrainedRun, read_trained

DIFFUSERS_LORA = "pytorch_lora_weights.safetensors"
COMFYUI_LORA = "comfyui_lora.safetensors"
TRANSFORMER = "transformer"
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
CONFIG, GALLERY = "config.yaml", "before_after.png"


def export_run(run_dir: Path, out: Path, dtype: torch.dtype | None = None) -> list[Path]:
    """Write the trained weights of a run, with a model card.

    A run with LoRA adapters is exported as `pytorch_lora_weights.safetensors` for the pipeline's `load_lora_weights`,
    and as `comfyui_lora.safetensors` for ComfyUI's LoRA loader. Both are for the published model: if the run merged a
    LoRA into it, they contain that LoRA too, and their rank is the sum of both. A run that trained the whole model is
    exported as `transformer/` for `from_pretrained` of the transformer's class. The weights are the EMA if the run kept
    one.

    Args:
        run_dir: Folder of the run.
        out: Output folder; created if needed.
        dtype: Data type of the written weights; None uses that of the run's forward passes.

    Returns:
        Written files and folders.

    Raises:
        ValueError: If the folder has no trained run, the best evaluation of the run is the baseline, or `out` cannot be
            written or has other files of another export.
    """
    run = read_trained(run_dir)
    if run.weights is None:
        raise ValueError(
            f"expected a run that improved on the base model, got {run_dir}, whose best evaluation was the baseline"
            " when reward-hacking detection stopped it; export another run"
        )
    _require_no_rest(run, out)
    transformer = load_tuned(run.config, torch.float32, "cpu", run.weights, quantized=False)
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = save_weights(transformer, run.config, out, dtype or model_dtype(run.config))
        written.append(write_text(out / "README.md", model_card(run, DIFFUSERS_LORA, COMFYUI_LORA)))
        written.append(write_text(out / CONFIG, run.folder.config.read_text(encoding="utf-8")))
        if run.folder.gallery.exists():
            with replacing(out / GALLERY) as unfinished:
                shutil.copyfile(run.folder.gallery, unfinished)
            written.append(out / GALLERY)
        return written
    except OSError as error:
        raise ValueError(f"--out: expected a writable folder, got {out} ({error}); choose another") from error


def _require_no_rest(run: TrainedRun, out: Path) -> None:
    """Check that no files of another export remain, which could be mistaken for those of this run."""
    weights = {TRANSFORMER} if run.config.model.lora is None else {DIFFUSERS_LORA, COMFYUI_LORA}
    gallery = {GALLERY} if run.folder.gallery.exists() else set[str]()
    rest = sorted({TRANSFORMER, DIFFUSERS_LORA, COMFYUI_LORA, GALLERY} - weights - gallery)
    found = [name for name in rest if (out / name).exists()]
    if found and (out / CONFIG).exists():
        raise ValueError(
            f"--out: expected a new folder or one whose files this export replaces, got {out} with {', '.join(found)}"
            " of another export; choose another folder or remove this one"
        )


def save_weights(transformer: Any, config: RunConfig, out: Path, dtype: torch.dtype) -> list[Path]:
    """Write the trained weights without a model card.

    Args:
        transformer: Tuned transformer, with adapters if the run trained adapters.
        config: Config of the run.
        out: Output folder.
        dtype: Data type of the written weights.

    Returns:
        Written files and folders.
    """
    if config.model.lora is None:
        transformer.to(dtype).save_pretrained(out / TRANSFORMER)
        return [out / TRANSFORMER]
    layers, adapters = _adapters(transformer, config.model)
    layers = {name: tensor.to(dtype).contiguous() for name, tensor in layers.items()}
    pipeline_class: Any = getattr(diffusers, family_of(config.model.path).pipeline)
    pipeline_class.save_lora_weights(
        out,
        transformer_lora_layers=layers,
        transformer_lora_adapter_metadata=adapters,
        weight_name=DIFFUSERS_LORA,
    )
    with replacing(out / COMFYUI_LORA) as unfinished:
        save_file(comfyui_lora(layers, None if config.model.lora.merged else config.model.lora), unfinished)
    return [out / DIFFUSERS_LORA, out / COMFYUI_LORA]


def _adapters(transformer: Any, model: ModelConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the adapters of a transformer for its published base model, and diffusers' metadata about them."""
    layers: dict[str, Tensor] = get_peft_model_state_dict(transformer)
    adapters = transformer.peft_config["default"]
    if model.lora is None or model.lora.merged is None:
        return layers, adapters.to_dict()
    scale = adapters.lora_alpha / adapters.r
    own = {
        name.removesuffix(_DOWN): LoraLayer(value, layers[name.removesuffix(_DOWN) + _UP], scale)
        for name, value in layers.items()
        if name.endswith(_DOWN)
    }
    joined = concatenated(read_lora(model.lora.merged, family_of(model.path)), own)
    tensors = {f"{name}{_DOWN}": layer.down for name, layer in joined.items()}
    tensors |= {f"{name}{_UP}": layer.up for name, layer in joined.items()}
    # Every name is a pattern that matches this layer alone.
    ranks = {f"^{re.escape(name)}": layer.rank for name, layer in joined.items()}
    return tensors, peft.LoraConfig(
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        rank_pattern=ranks,
        alpha_pattern=ranks,
        target_modules=list(joined),
    ).to_dict()


def concatenated(one: Mapping[str, LoraLayer], other: Mapping[str, LoraLayer]) -> dict[str, LoraLayer]:
    """Combine two LoRAs to one with the sum of their changes, of the sum of their ranks and of scale 1.

    Args:
        one: Layer -> adapter.
        other: Layer -> adapter, perhaps of other layers.
    """
    found: dict[str, LoraLayer] = {}
    for name in dict.fromkeys([*one, *other]):
        parts = [lora[name] for lora in (one, other) if name in lora]
        down = torch.cat([part.down.float() for part in parts])
        up = torch.cat([part.scale * part.up.float() for part in parts], dim=1)
        found[name] = LoraLayer(down, up, 1.0)
    return found


def comfyui_lora(layers: dict[str, Tensor], config: LoraConfig | None) -> dict[str, Tensor]:
    """Rename adapters for ComfyUI: `transformer.<layer>.lora_A.weight`, `.lora_B.weight`, `.alpha`.

    ComfyUI accepts diffusers' layer names, but reads no metadata: without `alpha` it uses the rank.

    Args:
        layers: `<layer>.lora_A.weight` and `<layer>.lora_B.weight`.
        config: Rank and alpha; None writes the rank of each layer as its alpha, a factor of 1.
    """
    alpha = config and (config.alpha or config.rank)
    tensors = {f"transformer.{name}": tensor.contiguous() for name, tensor in layers.items()}
    alphas = {
        f"{name.removesuffix(_DOWN)}.alpha": torch.tensor(float(alpha or len(tensor)))
        for name, tensor in tensors.items()
        if name.endswith(_DOWN)
    }
    return tensors | alphas

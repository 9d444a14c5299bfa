"""Other model of the contrast in a run's evaluations: the tuned model of another run, or the base model with a LoRA."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from srpo_ray.config import RunConfig, load_run
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.models.families import family_of
from srpo_ray.models.fitted_lora import AFTERWARDS, LoraOnBase, Shapes, padded_adapters
from srpo_ray.models.loading import load_transformer
from srpo_ray.models.lora_files import LoraLayer, read_lora, trained_adapters
from srpo_ray.models.lora_start import trained_shapes
from srpo_ray.models.merged_lora import MergedLora
from srpo_ray.models.paths import is_adapter
from srpo_ray.models.trainable import model_dtype
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.input_files import contrast_key_in_errors
from srpo_ray.runs.inputs import lora_hashes, model_hashes
from srpo_ray.runs.storage import Storage
from srpo_ray.runs.trained import trained_at
from srpo_ray.runs.trained_weights import finished_update, read_trained_weights

_PUBLISHED = ("model.path", "model.max_sequence_length")
"""Keys that runs have in common if noise and text features mean the same to both."""


def check_other_model(config: RunConfig) -> None:
    """Check that the workers of a run can hold the model of `evaluation.contrast_with`, if it names one.

    Args:
        config: The run.

    Raises:
        ValueError: If there is no finished run with valid weights and no LoRA, it is this run, it tuned another model,
            or its weights do not fit the parameters that this run trains.
    """
    if config.evaluation.contrast_with is None:
        return
    config = with_absolute_paths(config)
    path = str(config.evaluation.contrast_with)
    with contrast_key_in_errors(path):
        if not is_adapter(Path(path)):
            _check_run(config, Path(path))
        layers = _adapters(config, path)
        if layers is not None and config.model.lora:
            padded_adapters(layers, config.model.lora, trained_shapes(config.model))
        elif layers is not None:
            MergedLora(path, layers).check(trained_shapes(config.model))


def contrast_weights(config: RunConfig, shapes: Shapes, part: tuple[int, int] = (0, 1)) -> Mapping[str, Tensor]:
    """Read the weights of the model of `evaluation.contrast_with`, as weights of the parameters that a run trains.

    Args:
        config: The run.
        shapes: Shapes of the parameters that it trains.
        part: `(i, n)` verifies the contents of the i-th of every n files of a run only.

    Returns:
        Parameter name -> weights. Those of a whole model are read, or computed, on access.

    Raises:
        ValueError: If they cannot be read, or do not fit these parameters.
    """
    path = config.evaluation.contrast_with
    assert path is not None, "only a run with another model reads its weights"
    with contrast_key_in_errors(path):
        layers = _adapters(config, path, part)
        if layers is None:
            return _trained(path, part)
        if config.model.lora:
            return padded_adapters(layers, config.model.lora, shapes)
        base = load_transformer(config.model.path, model_dtype(config))
        return LoraOnBase(dict(base.named_parameters()), MergedLora(path, layers))


def _adapters(config: RunConfig, path: str, part: tuple[int, int] = (0, 1)) -> dict[str, LoraLayer] | None:
    """Read the adapters of a LoRA, or of a run; None for a run that tuned a whole model."""
    if not is_adapter(Path(path)):
        other = RunFolder(path)
        lora = load_run([other.config]).model.lora if other.config.exists() else None
        return lora and trained_adapters(path, _trained(path, part), lora.scale)
    if config.model.lora and config.model.lora.merged:
        raise ValueError(
            f"expected a run that merges the same LoRA with model.lora.start_mode=merge, got the LoRA {path}, whose"
            f" adapters belong to the published model; name a run, or {AFTERWARDS}"
        )
    return read_lora(path, family_of(config.model.path))


def _trained(path: str, part: tuple[int, int]) -> Mapping[str, Tensor]:
    """Read the trained weights of a finished run."""
    folder = RunFolder(path)
    update = finished_update(folder)
    if not update:
        raise ValueError(
            f"expected a finished run or a LoRA on storage that every node sees, got {path}, which this one does not"
            " see; put it at the same path on each"
        )
    return read_trained_weights(Storage(folder.checkpoints), update, part)


def _check_run(config: RunConfig, path: Path) -> None:
    if path == (Path(config.run_root) / config.name).resolve():
        raise ValueError(f"expected another run, got {path}, the folder of this one; choose another, or remove the key")
    folder = RunFolder(path)
    update = finished_update(folder)
    if update is None:
        received = "which lacks one of them" if path.exists() else "which does not exist"
        raise ValueError(
            f"expected the folder of a finished run, with config.yaml, finished.json and a checkpoint, or a LoRA, got"
            f" {path}, {received}; `srpo-ray train` prints the folder when it ends"
        )
    if not update:
        raise ValueError(
            f"expected a run with a tuned model, got {path}, whose best evaluation is that of the baseline; choose"
            " another, or remove the key to contrast with the base model"
        )
    read_trained_weights(Storage(folder.checkpoints), update)
    _check_same_model(config, trained_at(folder, update).config, path)


def _check_same_model(config: RunConfig, other: RunConfig, path: Path) -> None:
    """Check that the weights of another run have the meaning of those of this run."""
    if config.model.lora and not other.model.lora:
        raise ValueError(
            f"expected a run with model.lora, as this one, got {path}, which tuned the whole model; {AFTERWARDS}, which"
            " loads both models, or choose another run"
        )
    ours, theirs = _model_of(config), _model_of(other)
    for key, (shown, identity) in ours.items():
        if identity != theirs[key][1]:
            # The command takes runs of one published model, whatever is done to its weights.
            cure = "" if key in _PUBLISHED else f", or {AFTERWARDS}"
            raise ValueError(
                f"expected a run of the same model, got {path} with {key} {theirs[key][0]!r} where this run has"
                f" {shown!r}; choose runs with equal values{cure}"
            )


def _model_of(config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return key -> value for messages, and the value or the hashes of its files."""
    model = config.model
    merged = model.lora.merged if model.lora else None
    return {
        "model.path": (model.path, model_hashes(config)),
        "model.max_sequence_length": (model.max_sequence_length, model.max_sequence_length),
        "model.base": (model.base, model.base),
        "merged model.lora.start_from": (merged, lora_hashes(config) if merged else {}),
    }

"""Networks of a run for sampling: its tuned model, and the models that it is contrasted with."""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import peft
import torch
from torch import Tensor

from srpo_ray.config import RunConfig
from srpo_ray.models.continued_lora import adapter_weights
from srpo_ray.models.contrast import Network
from srpo_ray.models.families import family_of
from srpo_ray.models.lora_files import read_lora
from srpo_ray.models.trainable import load_trained, load_tuned

_OWN = "default"
"""Name of the adapters of the run in a transformer."""


@dataclass(frozen=True)
class Trained:
    """Config and trained weights of a run, as far as its network needs them."""

    config: RunConfig
    weights: Mapping[str, Tensor] | None
    """None for those before the first update."""


@dataclass(frozen=True)
class Networks:
    """Networks of a run for sampling."""

    transformer: Any
    """The transformer that `tuned` calls."""
    tuned: Network
    """The tuned model; the base model if no weight needs the tuned one."""
    others: tuple[Network, ...]
    """Network of each run that was asked for, in their order; the base model for None."""


def load_networks(
    run: Trained, others: Collection[Trained | None], dtype: torch.dtype, device: str, *, tuned: bool = True
) -> Networks:
    """Load a run's tuned model and the models that it is contrasted with.

    Where both runs train adapters of one base model, all networks share one transformer, with the adapters of one run
    enabled for a call. A run that continues a LoRA has adapters before its first update too, and its base model has
    none.

    Args:
        run: The run.
        others: Other runs of the same model; None for the run's own base model.
        dtype: Data type of the weights.
        device: Device of the weights.
        tuned: False if only the base model is needed; the trained weights are not loaded then.

    Raises:
        ValueError: As `load_tuned`.
    """
    weights = run.weights if tuned else None
    transformer = load_tuned(run.config, dtype, device, weights).eval()
    networks: list[Network] = []
    for index, other in enumerate(others):
        if other is None:
            networks.append(_base_network(run.config, transformer, dtype, device, trained=weights is not None))
        elif (adapters := _adapters_of(other)) and _share_base(run.config, other.config):
            _add_adapters(other.config, adapters, transformer, f"other_{index}", dtype)
            networks.append(_with_adapters(transformer, f"other_{index}"))
        else:
            networks.append(load_tuned(other.config, dtype, device, other.weights).eval())
    return Networks(transformer, transformer, tuple(networks))


def _base_network(config: RunConfig, transformer: Any, dtype: torch.dtype, device: str, *, trained: bool) -> Network:
    """Return the base model of a run, whose transformer has trained weights or those before the first update."""
    if config.model.lora and (trained or config.model.lora.continued):
        return _without_adapters(transformer)
    return load_tuned(config, dtype, device, None).eval() if trained else transformer


def _share_base(ours: RunConfig, theirs: RunConfig) -> bool:
    """Tell if two runs train adapters of the same frozen weights."""
    merged = any(config.model.lora is None or config.model.lora.merged for config in (ours, theirs))
    return not merged and (ours.model.path, ours.model.base) == (theirs.model.path, theirs.model.base)


def _adapters_of(other: Trained) -> Mapping[str, Tensor] | None:
    """Return the weights of another run, or those of the LoRA that it starts from; None if new adapters add nothing."""
    lora = other.config.model.lora
    if other.weights is not None or lora is None or lora.continued is None:
        return other.weights
    return adapter_weights(read_lora(lora.continued, family_of(other.config.model.path)), lora)


def _add_adapters(
    config: RunConfig, weights: Mapping[str, Tensor], transformer: Any, name: str, dtype: torch.dtype
) -> None:
    """Add the adapters of another run to a transformer under a name; those of the run stay enabled."""
    lora = config.model.lora
    assert lora is not None, "only a run with adapters shares a transformer"
    layers = sorted({key.partition(".lora_")[0] for key in weights})
    transformer.requires_grad_(False)
    adapters = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha or lora.rank, target_modules=layers)
    with warnings.catch_warnings():
        # peft warns of several adapters in one model, which is what this is for.
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        transformer.add_adapter(adapters, adapter_name=name)
    for parameter in (each for each in transformer.parameters() if each.requires_grad):
        parameter.data = parameter.data.to(dtype)
    load_trained(transformer, {key.replace(f".{_OWN}.", f".{name}."): each for key, each in weights.items()})
    transformer.set_adapter(_OWN)


def _with_adapters(transformer: Any, name: str) -> Network:
    def call(**inputs: Any) -> tuple[Tensor]:
        transformer.set_adapter(name)
        try:
            return transformer(**inputs)
        finally:
            transformer.set_adapter(_OWN)

    return call


def _without_adapters(transformer: Any) -> Network:
    def call(**inputs: Any) -> tuple[Tensor]:
        transformer.disable_adapters()
        try:
            return transformer(**inputs)
        finally:
            transformer.enable_adapters()

    return call

"""Loading of a transformer into the shards of ZeRO-3: no worker ever holds all of its weights."""

from typing import Any

import deepspeed
import diffusers
import torch
from torch import distributed as dist

from srpo_ray.config import RunConfig
from srpo_ray.models.continued_lora import continued_adapters
from srpo_ray.models.exact_time import embed_exact_times
from srpo_ray.models.families import family_of
from srpo_ray.models.loading import transformer_config
from srpo_ray.models.merged_lora import merged_lora
from srpo_ray.models.trainable import add_adapters, load_trained
from srpo_ray.models.weight_files import WeightFiles
from srpo_ray.training.shards import cut
from srpo_ray.training.zero import zero_config


def loads_into_shards(config: RunConfig) -> bool:
    """Return true if a run's weights are loaded into shards: at stage 3 with several workers.

    Copies within groups of workers (`training.shard_group_size`) are made of whole weights.
    """
    sharded = not config.zero_stage.whole_weights and dist.get_world_size() > 1
    return sharded and not config.training.shard_group_size


def load_into_shards(config: RunConfig, dtype: torch.dtype) -> Any:
    """Load a run's base model, with its adapters if it trains any. All workers must call.

    Every layer is sharded as soon as it is built, and each worker then reads its shards of the weights from the mapped
    files.

    Args:
        config: Config of the run.
        dtype: Data type of the weights.

    Returns:
        The transformer on the worker's device; exactly its trainable parameters require gradient.

    Raises:
        ValueError: If there is no complete, readable transformer at `model.path`, or `model.lora` or the LoRA that it
            starts from does not match it.
    """
    path = config.model.path
    model_class: Any = getattr(diffusers, family_of(path).transformer)
    structure = transformer_config(model_class, path)
    files = WeightFiles(path, "transformer")
    # DeepSpeed takes the data type of the weights from its config.
    with deepspeed.zero.Init(config_dict_or_path=zero_config(config.training, dtype, config.zero_stage.number, 0)):
        transformer = model_class.from_config(structure)
    places: dict[str, Any] = dict(transformer.state_dict(keep_vars=True))
    shapes = {name: getattr(place, "ds_shape", place.shape) for name, place in places.items()}
    files.require(shapes, model_class.__name__)
    merged = merged_lora(config.model)
    if merged:
        merged.check(shapes)
    for name, tensor in files:
        _fill(places[name], merged.added(name, tensor.to(dtype)) if merged else tensor.to(dtype))
    embed_exact_times(transformer)
    if config.model.lora:
        add_adapters(transformer, config.model.lora, config.seed)
        if config.model.lora.continued:
            load_trained(transformer, continued_adapters(config.model, transformer))
    return transformer


def _fill(place: Any, whole: torch.Tensor) -> None:
    """Copy a tensor of a file into a buffer, or this worker's part of it into its shard of a parameter."""
    with torch.no_grad():
        shard = getattr(place, "ds_tensor", None)
        if shard is None:
            place.copy_(whole)
        else:
            shard.copy_(cut(whole, shard.numel()))

"""Bytes of a share, against the tensors that DeepSpeed really holds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

from srpo_ray.config import RunConfig, apply
from srpo_ray.config.algorithms.base import Role
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.trainable import load_tuned, make_policy, model_dtype
from srpo_ray.planning.shapes import parameters
from srpo_ray.planning.zero_shares import Parameter, gathered, share
from srpo_ray.training.engine import Engine
from tests.helpers.training.ranks import run_ranks

ROLES: frozenset[Role] = frozenset({"old", "reference", "contrast"})


def held(*configs: RunConfig) -> list[dict[str, int]]:
    """Bytes of what an engine holds after one update, by the names of `Share`."""
    return [_held(config) for config in configs]


def _held(config: RunConfig) -> dict[str, int]:
    dtype = model_dtype(config)
    adapters = config.model.lora is not None
    engine = Engine(load_tuned(config, dtype, "cpu", None), config.training, dtype, roles=ROLES)
    engine.load_contrast({name: torch.zeros(shape) for name, shape in engine.shapes.items()})
    policy = make_policy(config, engine, engine.module.config, "cpu")  # type: ignore[arg-type]
    features = Conditioning(torch.ones(1, 16, 64, dtype=dtype), torch.ones(1, 64, dtype=dtype))
    engine.backward(policy.velocity(torch.ones(1, 16, 64), torch.ones(1), features, 1.0).mean())
    zero: Any = engine._engine.optimizer
    offloaded = config.training.offload is not None
    gradients = _optimizer_gradient_bytes(zero) if offloaded else _gradient_bytes(zero)
    waiting = _gradient_bytes(zero) if offloaded else 0
    engine.step()
    tensors: list[Any] = list(engine.module.parameters())
    whole = config.zero_stage.whole_weights
    return {
        **(_whole_weights(zero, tensors) if whole else _sharded_weights(zero, tensors)),
        "moments": _bytes([state for one in zero.optimizer.state.values() for state in one.values() if state.dim()]),
        "gradients": gradients,
        "waiting": waiting,
        "ema": _bytes(list(engine._ema.shards.values())) if engine._ema else 0,
        "old": _bytes(list(engine._old.shards.values())) if engine._old else 0,
        # Of adapters the reference is a single zero each, which is expanded when it is shown.
        "reference": 0 if adapters else _bytes(list((engine._reference or {}).values())),
        "contrast": _bytes(list((engine._contrast or {}).values())),
    }


def _sharded_weights(zero: Any, tensors: list[Any]) -> dict[str, int]:
    weights = [tensor.ds_tensor for tensor in tensors]
    places = {part.data_ptr() for part in weights}
    own = [flat for flat in zero.fp32_partitioned_groups_flat if flat.data_ptr() not in places]
    whole = [tensor.data for tensor in tensors if tensor.ds_persist and dist.get_world_size() > 1]
    return {
        "weights": _bytes(weights),
        "whole": _bytes(whole),
        "master": _bytes(own),
        "bucket": _bytes([bucket.buffer for bucket in zero.ipg_buckets.values()]),
        "numel": sum(tensor.ds_numel for tensor in tensors),
    }


def _whole_weights(zero: Any, tensors: list[Any]) -> dict[str, int]:
    """Of stages 1 and 2, which in bfloat16 are different classes of DeepSpeed."""
    stage_2 = hasattr(zero, "bit16_groups_flat")
    frozen = [tensor for tensor in tensors if not tensor.requires_grad]
    trained = [tensor for tensor in tensors if tensor.requires_grad]
    flat = zero.bit16_groups_flat if stage_2 else zero.bf16_groups_flat
    assert trained[0].data_ptr() == flat[0].data_ptr(), "the trained weights are in the flat tensor"
    # Stage 1 in bfloat16 sums in place and needs no bucket; the plan counts one.
    bucket = zero.reduce_bucket_size if stage_2 else sum(tensor.numel() for tensor in trained)
    return {
        "weights": _bytes(frozen) + _bytes(flat),
        "whole": 0,
        "master": _bytes(zero.single_partition_of_fp32_groups if stage_2 else zero.fp32_groups_flat_partition),
        "bucket": bucket * trained[0].element_size(),
        "numel": sum(tensor.numel() for tensor in tensors),
    }


def _gradient_bytes(zero: Any) -> int:
    if hasattr(zero, "grad_partitions_flat_buffer"):
        return _bytes([zero.grad_partitions_flat_buffer])
    if hasattr(zero, "fp32_groups_gradients_flat"):
        return _bytes(zero.fp32_groups_gradients_flat)
    # A single worker keeps the gradients of stage 2 apart until the optimizer step.
    averaged = zero.averaged_gradients.get(0)
    return _bytes(zero.all_grad_tensors[0] if averaged is None else [averaged.flat_partition])


def _optimizer_gradient_bytes(zero: Any) -> int:
    sharded = hasattr(zero, "fp32_partitioned_groups_flat")
    masters = zero.fp32_partitioned_groups_flat if sharded else zero.single_partition_of_fp32_groups
    return _bytes([master.grad for master in masters])


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("workers", [1, 2])
def test_share_is_what_deepspeed_holds_to_the_byte(tiny_run: RunConfig, tmp_path: Path, workers: int) -> None:
    full = apply(tiny_run, {"training.num_workers": workers, "training.ema.decay": 0.9})
    lora = apply(full, {"model.lora.rank": 3, "model.dtype": "bfloat16"})
    stages = {"training.zero_stage": 1}, {"training.zero_stage": 3}
    configs = (full, lora, *(apply(lora, stage) for stage in stages), apply(full, stages[1]))
    offload = {"training.offload": "optimizer"}
    configs += tuple(apply(run, offload) for run in (full, lora, apply(lora, {"training.zero_stage": 2})))
    assert [config.zero_stage.number for config in configs] == [2 if workers == 1 else 3, 2, 1, 3, 3, 3, 3, 2]
    for config, found in zip(configs, run_ranks(held, workers, tmp_path, *configs), strict=True):
        tensors = parameters(config.model)
        expected = share(tensors, config.training, 2 if config.model.dtype == "bfloat16" else 4, ROLES)
        assert found.pop("numel") == sum(tensor.numel for tensor in tensors)
        assert found == vars(expected)


def test_two_workers_halve_what_is_sharded_and_fill_up_odd_sizes(tiny_run: RunConfig) -> None:
    training = apply(tiny_run, {"training.num_workers": 2, "training.zero_stage": 3}).training
    tensors = (Parameter(200_001, trainable=True), Parameter(10, trainable=False))
    part = share(tensors, training, 2)
    assert (part.weights, part.whole, part.master, part.moments) == (2 * (100_001 + 5), 20, 4 * 100_001, 8 * 100_001)
    assert gathered(tensors, training, 2) == 2 * 200_001


def test_one_worker_gathers_nothing_unless_its_weights_are_on_the_host(tiny_run: RunConfig) -> None:
    tensors = (Parameter(200_001, trainable=True),)
    assert gathered(tensors, tiny_run.training, 2) == 0
    offloaded = apply(tiny_run, {"training.offload": "weights"}).training
    assert gathered(tensors, offloaded, 2) == 2 * 200_001

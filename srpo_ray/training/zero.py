"""DeepSpeed config of a run: ZeRO with AdamW."""

from typing import Any

import torch

from srpo_ray.config.training import TrainingConfig
from srpo_ray.config.zero import KEPT_WHOLE, LIVE_PARAMETERS, PREFETCHED, REDUCE_BUCKET, SUB_GROUP


def zero_config(config: TrainingConfig, dtype: torch.dtype, stage: int, trained: int) -> dict[str, Any]:
    """Build the config for `deepspeed.initialize`.

    Args:
        config: Section `training`.
        dtype: Data type of the forward passes.
        stage: ZeRO stage: 1, 2 or 3.
        trained: Elements of all trained parameters.
    """
    optimizer = config.optimizer
    return {
        "train_micro_batch_size_per_gpu": config.pass_size,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": optimizer.max_grad_norm,
        "zero_optimization": {
            "stage": stage,
            **(_sharded_weights(config) if stage == 3 else _whole_weights(trained)),
            **_offload(config),
        },
        "bf16": {"enabled": dtype == torch.bfloat16},
        # In bfloat16, rounding of the sum would lose the gradients of later micro-batches.
        "data_types": {"grad_accum_dtype": "fp32"},
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": optimizer.lr,
                "betas": list(optimizer.betas),
                "eps": optimizer.eps,
                "weight_decay": optimizer.weight_decay,
                "torch_adam": True,
            },
        },
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def _sharded_weights(config: TrainingConfig) -> dict[str, Any]:
    return {
        "reduce_bucket_size": REDUCE_BUCKET,
        "stage3_param_persistence_threshold": KEPT_WHOLE,
        "stage3_max_live_parameters": LIVE_PARAMETERS,
        "stage3_max_reuse_distance": LIVE_PARAMETERS,
        "stage3_prefetch_bucket_size": PREFETCHED,
        "sub_group_size": SUB_GROUP,
        **({"zero_hpz_partition_size": config.shard_group_size} if config.shard_group_size else {}),
    }


def _whole_weights(trained: int) -> dict[str, Any]:
    return {"reduce_bucket_size": min(REDUCE_BUCKET, trained), "allgather_bucket_size": REDUCE_BUCKET}


def _offload(config: TrainingConfig) -> dict[str, Any]:
    """Build the offload section. torch's AdamW runs on the host, so no DeepSpeed kernel has to be compiled."""
    parts = {None: (), "optimizer": ("optimizer",), "weights": ("optimizer", "param")}[config.offload]
    return {f"offload_{part}": {"device": "cpu"} for part in parts}

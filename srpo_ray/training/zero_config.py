"""DeepSpeed's own config of a run: ZeRO-3 with AdamW."""

from typing import Any

import torch

from srpo_ray.config.training import TrainingConfig
from srpo_ray.planning.zero_shares import KEPT_WHOLE, LIVE_PARAMETERS, PREFETCHED, REDUCE_BUCKET


def zero_config(config: TrainingConfig, dtype: torch.dtype) -> dict[str, Any]:
    """What `deepspeed.initialize` is told.

    Args:
        config: Section `training`.
        dtype: Data type of the forward passes.
    """
    optimizer = config.optimizer
    return {
        "train_micro_batch_size_per_gpu": config.pass_size,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": optimizer.max_grad_norm,
        "zero_optimization": {
            "stage": 3,
            "reduce_bucket_size": REDUCE_BUCKET,
            "stage3_param_persistence_threshold": KEPT_WHOLE,
            "stage3_max_live_parameters": LIVE_PARAMETERS,
            "stage3_max_reuse_distance": LIVE_PARAMETERS,
            "stage3_prefetch_bucket_size": PREFETCHED,
            **_offload(config),
        },
        "bf16": {"enabled": dtype == torch.bfloat16},
        # In bfloat16 the gradients of later micro-batches would be lost in the rounding of the sum.
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


def _offload(config: TrainingConfig) -> dict[str, Any]:
    """What DeepSpeed keeps in the host's memory; torch's own AdamW then runs there, so nothing has to be compiled."""
    parts = {None: (), "optimizer": ("optimizer",), "weights": ("optimizer", "param")}[config.offload]
    return {f"offload_{part}": {"device": "cpu"} for part in parts}

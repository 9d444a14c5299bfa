"""Checks of a run across its sections: weights, shards, workers and GPUs.

Each function raises a `ValueError` that says what was expected, what came and what to do.
"""

from srpo_ray.config.run_sections import RunSections


def check_average(run: RunSections) -> None:
    """Refuse an algorithm that uses the EMA of the weights without one."""
    if "ema" in run.algorithm.roles and not run.training.ema:
        raise ValueError(
            f"expected training.ema with algorithm.type={run.algorithm.type}, which uses the EMA of the"
            " weights, got none; set training.ema to {} for its defaults"
        )


def check_contrast(run: RunSections) -> None:
    """Refuse a contrast with base weights that the run does not keep."""
    kept = run.evaluation.contrast_with is not None or "reference" in run.algorithm.roles
    if run.evaluation.contrast and not run.model.lora and not kept:
        raise ValueError(
            f"expected model.lora, or an algorithm that keeps the base model's weights, with"
            f" evaluation.rl_guidance={run.evaluation.rl_guidance}, got full fine-tuning with"
            f" algorithm.type={run.algorithm.type}, which keeps none; train adapters, set"
            " algorithm.anchor.reference, name a run or a LoRA in evaluation.contrast_with, or remove it and use"
            " `srpo-ray evaluate --rl-guidance` after the training"
        )


def check_shard_groups(run: RunSections) -> None:
    """Refuse groups of shards where weights are whole."""
    size = run.training.shard_group_size
    if size and run.zero_stage.whole_weights:
        raise ValueError(
            f"expected ZeRO stage 3 with training.shard_group_size={size}, got {run.zero_stage.number}"
            f" ({run.zero_stage.reason}); stages 1 and 2 keep whole weights on every worker, so remove"
            " training.shard_group_size, or set training.zero_stage=3"
        )


def check_base(run: RunSections) -> None:
    """Refuse a quantised base whose weights would be sharded."""
    base = run.model.base
    if base and not run.zero_stage.whole_weights:
        raise ValueError(
            f"expected ZeRO stage 1 or 2 with model.base={base}, got {run.zero_stage.number}"
            f" ({run.zero_stage.reason}); packed weights and their scales cannot be sharded, so remove"
            " training.zero_stage and training.offload, or remove model.base"
        )


def check_gather_blocks(run: RunSections) -> None:
    """Refuse gathering by blocks where DeepSpeed cannot do it."""
    if not run.training.gather_blocks:
        return
    if run.model.lora:
        raise ValueError(
            "expected training.gather_blocks=false with model.lora, got true; DeepSpeed would release the frozen"
            " weights of a block before they are used, and adapters gather nothing at ZeRO stage 2, so remove it"
        )
    if not run.model.gradient_checkpointing:
        raise ValueError(
            "expected model.gradient_checkpointing=true with training.gather_blocks, got false; without"
            " recomputation DeepSpeed releases a block's weights before its backward pass has ended, so set it or"
            " remove gather_blocks"
        )
    calls = run.algorithm.total_calls(run.rollout.num_steps)
    in_flight = min(run.losses_in_flight, calls.losses)
    if in_flight > 1:
        raise ValueError(
            f"expected training.losses_in_flight=1 with training.gather_blocks, got {in_flight}; DeepSpeed supports"
            " one pass through a block per backward pass, so set training.losses_in_flight=1 or remove"
            " gather_blocks"
        )
    if calls.chained > 1:
        raise ValueError(
            f"expected one transformer call per loss with training.gather_blocks, got {calls.chained} of"
            f" algorithm.type={run.algorithm.type}; DeepSpeed supports one pass through a block per backward pass,"
            " so remove gather_blocks or choose another algorithm"
        )


def check_compile(run: RunSections) -> None:
    """Refuse compiled blocks under hooks on every layer."""
    if not run.model.compile or run.zero_stage.whole_weights or run.training.gather_blocks:
        return
    cure = "set training.gather_blocks=true, or training.zero_stage=2 if every GPU has room for whole weights"
    if run.model.lora:
        cure = "set training.zero_stage=2 and offload no weights"
    raise ValueError(
        f"expected ZeRO stage 1 or 2, or training.gather_blocks, with model.compile=true, got stage"
        f" {run.zero_stage.number} ({run.zero_stage.reason}); DeepSpeed's hooks on every layer would cut each"
        f" block into dozens of graphs, so {cure}, or remove model.compile"
    )


def check_context_parallel(run: RunSections) -> None:
    """Refuse compiled blocks whose tokens are shared by workers."""
    size = run.training.context_parallel
    if size > 1 and run.model.compile:
        raise ValueError(
            f"expected model.compile=false with training.context_parallel={size}, got true; the exchange of tokens"
            " between workers is inside the compiled blocks, which is not supported, so remove one of the two"
        )


def check_elastic(run: RunSections) -> None:
    """Refuse an elastic run whose draws or resources depend on the number of workers."""
    training, pool = run.training, run.rewards.pool
    if not training.elastic:
        return
    drawn = [name for name in type(run.algorithm).model_fields if getattr(run.algorithm, name) == "per_worker"]
    if drawn:
        raise ValueError(
            f"expected algorithm.{drawn[0]} to be shared or per_sample with a range training.num_workers, got"
            " per_worker; draws per worker would depend on the number of workers"
        )
    both = sorted(set(training.resources) & set(pool.resources))
    if not run.rewards.in_process and (both or (pool.num_gpus and not pool.resources)):
        raise ValueError(
            "expected training.resources and rewards.pool.resources to name different resources with a range"
            f" training.num_workers, got {sorted(training.resources)} and {sorted(pool.resources)}; give reward"
            " nodes a resource that trainer nodes lack, such as {reward_slot: 1}, so that neither uses the other's"
            " GPUs"
        )


def check_one_worker_per_gpu(run: RunSections) -> None:
    """Refuse reservations that would put two workers on one GPU."""
    training = run.training
    if training.max_workers == 1 or not 0 < training.num_gpus <= 0.5:
        return
    needed, replicas = training.max_workers, run.replicas_beside_trainers
    if replicas < needed:
        raise ValueError(
            f"expected training.num_gpus above 0.5 with {needed} workers, or a reward replica of more than half a"
            f" GPU beside each of them, got training.num_gpus={training.num_gpus:g} and {replicas} such replicas;"
            f" Ray would place two workers on one GPU, so set rewards.pool.num_replicas={needed} and"
            f" rewards.pool.num_gpus={1 - training.num_gpus:g}, or training.num_gpus=1"
        )

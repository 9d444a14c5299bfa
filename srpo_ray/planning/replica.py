"""What the reward replicas hold, and whether they share the trainers' GPUs."""

from collections.abc import Sequence

from srpo_ray.config import RunConfig
from srpo_ray.config.count import CountRange
from srpo_ray.planning.accounting import Memory, Part, Phase, present
from srpo_ray.planning.hardware import CONTEXT_BYTES, SLACK
from srpo_ray.planning.reward_models import RewardSize


def replica_count(config: RunConfig) -> int:
    """Most replicas that the pool may have: the upper end of a range, of each model where they are apart."""
    return config.rewards.pool.most_replicas(len(config.rewards.models) + len(config.evaluation.held_out))


def replica_notes(config: RunConfig) -> tuple[str, ...]:
    """What the plan takes for granted about the pool."""
    count = config.rewards.pool.num_replicas
    if config.rewards.in_process or not isinstance(count, CountRange):
        return ()
    return (f"rewards.pool.num_replicas is {count.min} to {count.max}; the plan is for {count.max}",)


def replicas_per_gpu(config: RunConfig) -> int:
    """Most replicas that Ray may put on one GPU of their own."""
    pool = config.rewards.pool
    return min(replica_count(config), _fitting(1.0, pool.num_gpus))


def replicas_beside_a_trainer(config: RunConfig) -> int:
    """Most replicas that Ray may put on one trainer's GPU; 0 where resources keep the two apart."""
    training, pool = config.training, config.rewards.pool
    apart = bool(set(pool.resources) ^ set(training.resources))
    if config.rewards.in_process or apart or not training.num_gpus or not pool.num_gpus:
        return 0
    return min(replica_count(config), _fitting(1.0 - training.num_gpus, pool.num_gpus))


def replica_memory(config: RunConfig, rewards: Sequence[RewardSize]) -> Memory:
    """What one replica holds: all models, or the largest where each has its own, and the activations of one call.

    Args:
        config: The run.
        rewards: Sizes of the models.
    """
    on_gpu = config.rewards.pool.num_gpus > 0
    if config.rewards.pool.one_model_each and not config.rewards.in_process:
        rewards = sorted(rewards, key=lambda reward: reward.weights + reward.texts + reward.cost.peak)[-1:]
    always = present(
        *(Part(f"{reward.name}, weights", reward.weights) for reward in rewards),
        Part("text features, cache full", sum(reward.texts for reward in rewards)),
    )
    largest = max((reward.cost.peak for reward in rewards), default=0)
    phases = (Phase("scoring", present(Part("activations of one call", largest))),)
    if not on_gpu:
        return Memory("reward replica, on the CPU", always, phases)
    slack = int(SLACK * Memory("", always, phases).allocated)
    outside = (Part(f"allocator slack, {SLACK:.0%} assumed", slack), Part("CUDA context, assumed", CONTEXT_BYTES))
    return Memory("reward replica", always, phases, outside)


def _fitting(room: float, need: float) -> int:
    """How many times a need goes into a room; the small number is for fractions such as 0.1."""
    return int(room / need + 1e-9) if need else 0

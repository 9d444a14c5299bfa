"""What the host of a trainer node holds."""

from collections.abc import Sequence

from srpo_ray.config import RunConfig
from srpo_ray.planning.architecture import dtype_of, parameters
from srpo_ray.planning.hardware import PROCESS_BYTES
from srpo_ray.planning.memory import Memory, Part, Phase, present
from srpo_ray.planning.replica import replica_count, replica_memory
from srpo_ray.planning.rewards import RewardSize
from srpo_ray.planning.sharding import MASTER, share, trained_elements


def host_memory(config: RunConfig, gpus_per_node: int, rewards: Sequence[RewardSize]) -> Memory:
    """What a node of trainers holds, beside what Ray keeps for its object store.

    Args:
        config: The run.
        gpus_per_node: Workers on one node at most.
        rewards: Sizes of the reward models.
    """
    training, pool = config.training, config.rewards.pool
    element_size, tensors = dtype_of(config.model).itemsize, parameters(config.model)
    workers = min(training.max_workers, gpus_per_node)
    part = share(tensors, training, element_size)
    offloaded = part.optimizer if training.offload else 0
    if training.offload == "weights":
        offloaded += part.weights
    in_replicas = 0
    if config.rewards.in_process:
        in_replicas = workers * replica_memory(config, rewards).allocated
    elif not pool.num_gpus:
        in_replicas = replica_count(config) * (PROCESS_BYTES + replica_memory(config, rewards).allocated)
    always = present(
        Part(f"{PROCESS_BYTES >> 30} GiB for each trainer process, assumed", workers * PROCESS_BYTES),
        Part("offloaded from the GPUs", workers * offloaded),
        Part("reward models on the CPU", in_replicas),
    )
    whole = element_size * sum(parameter.numel for parameter in tensors)
    copies = 3 + bool(training.ema) + ("old" in config.algorithm.needs.roles)
    kept = copies * MASTER * trained_elements(tensors)
    # Each worker writes an equal share, so a node writes as much as it has workers of the fewest.
    written = kept * min(workers, training.min_workers) // training.min_workers
    phases = (
        # Workers map the files of the weights: the host has one copy in its page cache, however many they are.
        Phase("loading", (Part("files of the weights, mapped", whole),)),
        Phase("checkpoint", (Part("weights and moments of its workers, to be written", written),)),
    )
    return Memory(f"host of {workers} trainer{'s' if workers > 1 else ''}", always, phases)

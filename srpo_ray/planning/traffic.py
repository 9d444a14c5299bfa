"""What one worker receives and sends in an update."""

from srpo_ray.config import RunConfig
from srpo_ray.planning.architecture import dtype_of, parameters
from srpo_ray.planning.memory import Part, present
from srpo_ray.planning.schedule import micro_batches, schedule
from srpo_ray.planning.sharding import gathered, trained_elements

WIRE_BYTES = {"float32": 4, "bfloat16": 2}


def worker_traffic(config: RunConfig) -> tuple[Part, ...]:
    """Bytes between one worker and the others in one update: gathers of weights, averaging of gradients."""
    training, plan = config.training, schedule(config)
    element_size, tensors = dtype_of(config.model).itemsize, parameters(config.model)
    others = (training.max_workers - 1) / training.max_workers
    once = others * gathered(tensors, training, element_size)
    # Every call with gradient gathers for its forward and for its backward pass.
    calls = 2 * plan.gradients * plan.mean_chained
    backwards = plan.optimizer_steps * -(-plan.losses // plan.in_flight)
    averaged = others * element_size * trained_elements(tensors)
    count = micro_batches(config)
    rollouts = float(plan.phases) if training.gather_for_rollout else count * plan.forward
    return present(
        Part("weights gathered for rollouts", int(rollouts * once)),
        Part("weights gathered for gradients", int(count * calls * once)),
        Part("gradients averaged", int(count * backwards * averaged)),
    )


def reward_traffic(config: RunConfig, sizes: tuple[int, ...]) -> tuple[Part, ...]:
    """Bytes between one worker and the reward replicas in one update.

    Args:
        config: The run.
        sizes: Sides of the images that the trained rewards want, in pixels.
    """
    if config.rewards.in_process:
        return ()
    plan = schedule(config)
    one = sum(3 * size**2 for size in set(sizes)) * WIRE_BYTES[config.rewards.pool.wire_dtype]
    pixels = micro_batches(config) * plan.scored * one
    return present(
        Part("pixels to the rewards", pixels),
        Part("gradients from the rewards", pixels if plan.decodes else 0),
    )

"""How much an update computes, and how long that takes at a given speed."""

from collections.abc import Sequence
from dataclasses import dataclass

from srpo_ray.config import RunConfig
from srpo_ray.planning.computation import decoder_cost, velocity_cost
from srpo_ray.planning.rewards import RewardSize
from srpo_ray.planning.schedule import micro_batches, schedule
from srpo_ray.planning.trace import Cost


@dataclass(frozen=True)
class Work:
    """One kind of work in an update."""

    name: str
    flops: float
    """Operations of one worker."""


def worker_work(config: RunConfig, sizes: tuple[int, ...]) -> tuple[Work, ...]:
    """What one worker computes in an update, without its share of evaluations.

    Args:
        config: The run.
        sizes: Sides of the images that its rewards want, in pixels.
    """
    model, gpu, plan, count = config.model, config.training.num_gpus > 0, schedule(config), micro_batches(config)
    guidance_scale = config.rollout.guidance_scale
    forward = velocity_cost(model, plan.rolled_out, guidance_scale, gradient=False, gpu=gpu).forward_flops
    call = velocity_cost(model, plan.samples, plan.guidance_scale, gradient=True, gpu=gpu)
    decoder = decoder_cost(model, plan.samples, sizes, gradient=plan.decodes, gpu=gpu)
    decodings = plan.losses if plan.decodes else 1
    reuse = config.rollout.reuse
    return (
        Work("rollout" if reuse == 1 else f"rollout, mean over {reuse} updates", count * plan.forward * forward),
        Work("gradient steps", count * plan.losses * plan.mean_chained * _both(call)),
        Work("VAE decoder", count * decodings * _both(decoder)),
    )


def replica_work(config: RunConfig, trained: Sequence[RewardSize]) -> Work:
    """What all replicas together compute in an update, for all workers; they work beside the trainers.

    Args:
        config: The run.
        trained: Sizes of the models that are trained on, for calls of `micro_batch_size` images.
    """
    plan = schedule(config)
    images = config.training.max_workers * micro_batches(config) * plan.samples
    images *= plan.losses if plan.decodes else 1
    one = sum(_both(reward.cost) for reward in trained) / config.rewards.pool.micro_batch_size
    return Work("reward models", images * one)


def _both(cost: Cost) -> float:
    return cost.forward_flops + cost.backward_flops

"""Advice on `rollout.batch_size`: larger batches of rollouts that fit where the run fits."""

from srpo_ray.config import RunConfig, apply
from srpo_ray.planning.plan import Plan, make_plan
from srpo_ray.planning.report import gib
from srpo_ray.planning.schedule import micro_batches, rollout_batches, rollout_images
from srpo_ray.planning.shapes import planned_family

ENOUGH = 8
"""Images of a call beyond which no larger one is tried."""


def larger_rollouts(config: RunConfig, plan: Plan) -> str | None:
    """Find a larger batch of rollouts that fits too.

    Args:
        config: The run.
        plan: Its plan.

    Returns:
        The change and its effect in a line. None if rollouts are in large batches already, no larger one fits, each
        image is a call of its own, or the run itself does not fit.
    """
    each, images = config.sampled_per_pass, rollout_images(config)
    divided = config.algorithm.calls(config.rollout.num_steps).rollout_parts > 1
    if not plan.fits or not config.training.num_gpus or not each or divided:
        return None
    if not planned_family(config.model).equal_lengths:
        return None
    passes = min(micro_batches(config), ENOUGH // each)
    while passes * each > images:
        size = passes * each
        changed = apply(config, {"rollout.batch_size": size})
        larger = make_plan(changed, plan.hardware)
        if larger.fits:
            return (
                f"rollout.batch_size={size} fits too ({gib(larger.peak)}): an update samples its images in"
                f" {rollout_batches(changed)} instead of {rollout_batches(config)} batches on each worker; the images"
                " stay the same up to rounding"
            )
        passes //= 2
    return None

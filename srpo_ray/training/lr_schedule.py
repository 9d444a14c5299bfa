"""Learning-rate schedule. It depends only on the update index, so checkpoints do not store it."""

import math

from srpo_ray.config.training import TrainingConfig


def learning_rate(config: TrainingConfig, update: int) -> float:
    """Compute the learning rate of one update.

    The decay reaches its end after the last update, not at it: an update at a rate of 0 would change nothing.

    Args:
        config: Section `training`.
        update: Index of the update, from 0.
    """
    schedule, peak = config.lr_schedule, config.optimizer.lr
    if update < schedule.warmup_updates:
        return peak * (update + 1) / schedule.warmup_updates
    if schedule.type == "constant":
        return peak
    progress = (update - schedule.warmup_updates) / (config.num_updates - schedule.warmup_updates)
    remaining = 1 - progress if schedule.type == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return peak * (schedule.final_fraction + (1 - schedule.final_fraction) * remaining)

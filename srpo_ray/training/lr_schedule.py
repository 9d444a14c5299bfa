"""The learning rate as a function of the update, so that a run that goes on needs no state for it."""

import math

from srpo_ray.config.training import TrainingConfig


def learning_rate(config: TrainingConfig, update: int) -> float:
    """Learning rate of one update.

    The fall ends with the run, not with its last update: an update at a rate of 0 would be for nothing.

    Args:
        config: Section `training`.
        update: Updates made before it, from 0.
    """
    schedule, peak = config.lr_schedule, config.optimizer.lr
    if update < schedule.warmup_updates:
        return peak * (update + 1) / schedule.warmup_updates
    if schedule.type == "constant":
        return peak
    progress = (update - schedule.warmup_updates) / (config.num_updates - schedule.warmup_updates)
    remaining = 1 - progress if schedule.type == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return peak * (schedule.final_fraction + (1 - schedule.final_fraction) * remaining)

"""Requests of an update to the servers of rewards, whose time and memory the plan does not know."""

from dataclasses import dataclass

from srpo_ray.config import RunConfig
from srpo_ray.config.served_rewards import ServedRewardSection
from srpo_ray.planning.schedule import micro_batches, schedule

ORDERS = 2
"""Requests for a pair of images: one for each order."""


@dataclass(frozen=True)
class ServerWork:
    """Work of one reward's server in an update, for all workers."""

    name: str
    """Name of the reward."""
    images: int
    """Images that are rated, counted for each time."""
    comparisons: int
    """Requests that compare two images."""


def server_work(config: RunConfig) -> tuple[ServerWork, ...]:
    """Compute the work of the servers of the trained rewards in an update; empty if no reward has a server."""
    plan = schedule(config)
    passes = config.training.data_workers * micro_batches(config)
    return tuple(
        ServerWork(model.name, passes * plan.scored, passes * plan.pairs * ORDERS if model.compares_pairs else 0)
        for model in config.rewards.models
        if isinstance(model, ServedRewardSection)
    )

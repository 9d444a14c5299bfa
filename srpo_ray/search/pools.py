"""Reward pools of an experiment: one for each set of reward models among its runs."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Literal

from srpo_ray.config import RunConfig
from srpo_ray.config.pool_key import pool_key
from srpo_ray.launch.train import reward_pool


@contextmanager
def reward_pools(
    configs: Iterable[RunConfig],
    name: str,
    meanwhile: Callable[[], object] | None = None,
    until: Literal["open", "placed"] = "open",
) -> Iterator[dict[str, str | None]]:
    """Start the reward pools of some runs for the block.

    Args:
        configs: Configs of the runs, with absolute paths.
        name: Beginning of the pools' names.
        meanwhile: Work of this process while the first pool loads.
        until: State of each pool at which the next one is started, and then the block; see `RewardPool.create`.

    Yields:
        Key of each set of reward models (`pool_key`) -> name of its pool, or None where rewards are in process.
    """
    needed = {pool_key(config): config for config in configs}
    with ExitStack() as stack:
        pools: dict[str, str | None] = {}
        replicas = 0
        for key, config in needed.items():
            own = name if not pools else f"{name}_{len(pools) + 1}"
            pools[key] = stack.enter_context(reward_pool(config, own, replicas, None if pools else meanwhile, until))
            replicas += _least_replicas(config)
        yield pools


def pool_of(pools: Mapping[str, str | None], config: RunConfig) -> str | None:
    """Return the name of the pool for a run; None if its rewards are in process.

    Raises:
        ValueError: If no pool was started for its reward models.
    """
    key = pool_key(config)
    if key not in pools:
        names = ", ".join(model.name for model in config.rewards.models)
        raise ValueError(
            f"expected a reward pool for the models of {config.name} ({names}), got none with these models and"
            " settings; search at most one key of `rewards` and `evaluation.held_out` besides weights in an arm, or"
            " make an arm for each set of models"
        )
    return pools[key]


def _least_replicas(config: RunConfig) -> int:
    count = len(config.rewards.models) + len(config.evaluation.held_out)
    return 0 if config.rewards.in_process else config.rewards.pool.least_replicas(count)

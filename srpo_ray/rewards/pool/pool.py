"""Lifecycle of the pool in the driver: start it, wait until its models are loaded, stop it."""

import logging
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal

import ray

from srpo_ray.config.rewards import PoolConfig, RewardModelConfig
from srpo_ray.rewards.pool.actors import model_groups, start_router
from srpo_ray.rewards.pool.messages import Loading
from srpo_ray.rewards.pool.opening import POLL_S, REPORT_INTERVAL_S, Opening

logger = logging.getLogger(__name__)


class RewardPool:
    """Replicas of the reward models and the router that owns them; the pool ends with the process that created it.

    with RewardPool.create(config.rewards.models, held_out, config.rewards.pool, "rewards") as pool:
        ...  # trainers anywhere in the cluster: RewardClient.connect("rewards", weights)
    """

    def __init__(self, name: str, router: Any) -> None:
        self.name = name
        self._router = router

    @classmethod
    def create(
        cls,
        models: Sequence[RewardModelConfig],
        held_out: Sequence[RewardModelConfig],
        pool: PoolConfig,
        name: str,
        meanwhile: Callable[[], object] = lambda: None,
        until: Literal["open", "placed"] = "open",
    ) -> "RewardPool":
        """Start a pool and wait until the minimum number of replicas has loaded its models.

        Args:
            models: Training rewards.
            held_out: Held-out evaluators; they run in the same replicas, or with `one_model_each` in separate ones.
            pool: Size and settings.
            name: Name by which clients find the pool.
            meanwhile: Work of this process while the replicas load.
            until: With `placed`, wait only until the replicas have reserved their resources; `Opening` tells the rest.

        Raises:
            ValueError: If the name is taken, or a model cannot be loaded.
            RewardError: If a reward's constructor raises.
            RunFailedError: If a replica dies while it loads.
        """
        groups = model_groups(name, (*models, *held_out), pool)
        created = cls(name, start_router(name, groups, pool))
        try:
            created._wait(pool, meanwhile, until)
        except BaseException:
            created.shutdown()
            raise
        return created

    def shutdown(self) -> None:
        """Stop all actors; calls in flight fail with a RewardError at their client."""
        # The replicas are the router's children.
        ray.kill(self._router)

    def __enter__(self) -> "RewardPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def _wait(self, pool: PoolConfig, meanwhile: Callable[[], object], until: Literal["open", "placed"]) -> None:
        """Wait until the pool is open or placed; raise the first failure at once."""
        self._router.start.remote()
        meanwhile()
        opening, started = Opening([self.name]), time.monotonic()
        reported = started
        while not opening.is_complete():
            loading: Loading = ray.get(self._router.loading.remote())
            if until == "placed" and 0 < loading.placed == loading.replicas:
                return
            if time.monotonic() - reported >= REPORT_INTERVAL_S:
                reported = time.monotonic()
                logger.warning(
                    "%d of %d reward replicas have not loaded after %.0f s. Each needs %s. Free now: %s",
                    loading.replicas - loading.loaded,
                    loading.replicas,
                    reported - started,
                    {**pool.replica_resources, **pool.labels},
                    ray.available_resources(),
                )
            time.sleep(POLL_S)

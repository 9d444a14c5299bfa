"""The driver's side of the pool: start it, wait until it has loaded, stop it."""

import logging
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayTaskError

from srpo_ray.config.rewards import PoolConfig, RewardModelConfig
from srpo_ray.rewards.pool.actors import model_groups, start_router

logger = logging.getLogger(__name__)

REPORT_INTERVAL_S = 30.0


class RewardPool:
    """Replicas of the reward models and the router that owns them; lives as long as the process that made it.

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
    ) -> "RewardPool":
        """Start a pool and wait until the least number of replicas has loaded its models.

        Args:
            models: Training rewards.
            held_out: Models that are only measured; they live in the same replicas, or in ones of their own as all do.
            pool: Size and settings.
            name: Name by which clients find the pool.

        Raises:
            ValueError: If the name is taken, or a model cannot be loaded.
            RewardError: If a reward's constructor raises.
            RunFailedError: If a replica dies while it loads.
        """
        groups = model_groups(name, (*models, *held_out), pool)
        created = cls(name, start_router(name, groups, pool))
        try:
            created._wait_until_loaded(pool)
        except BaseException:
            created.shutdown()
            raise
        return created

    def shutdown(self) -> None:
        """Stop all actors; calls still on their way fail with a RewardError at their client."""
        # The replicas are the router's children.
        ray.kill(self._router)

    def __enter__(self) -> "RewardPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def _wait_until_loaded(self, pool: PoolConfig) -> None:
        """Return when the pool is open; the first failure is raised at once."""
        opened = self._router.open.remote()
        started = time.monotonic()
        while not ray.wait([opened], timeout=REPORT_INTERVAL_S)[0]:
            loaded, replicas = ray.get(self._router.loading.remote())
            logger.warning(
                "%d of %d reward replicas have not loaded after %.0f s; each needs %s, free now: %s",
                replicas - loaded,
                replicas,
                time.monotonic() - started,
                {**pool.replica_resources, **pool.labels},
                ray.available_resources(),
            )
        try:
            ray.get(opened)
        except RayTaskError as error:
            raise error.cause from error

"""Start of pools as other processes see it: pools whose replicas still load their models."""

import logging
import time
from collections.abc import Iterable
from typing import Any

import ray

from srpo_ray.rewards.pool.messages import NAMESPACE

logger = logging.getLogger(__name__)

POLL_S = 0.05
REPORT_INTERVAL_S = 30.0


class Opening:
    """Pools that may still load. It can be sent to any process of the cluster, and pickled at any time.

    Args:
        names: Names of the pools.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._loading = list(names)
        self._asked: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Answers to come are of this process.
        return {"_loading": self._loading, "_asked": {}}

    def is_complete(self) -> bool:
        """Test whether all pools are open; this does not wait for an answer.

        Raises:
            ValueError: If a model could not be loaded, or a pool does not exist.
            RewardError: If a reward's constructor has raised.
            RunFailedError: If a replica died while it loaded.
        """
        self._loading = [name for name in self._loading if not self._is_open(name)]
        return not self._loading

    def wait(self) -> None:
        """Wait until all pools are open, with a warning every `REPORT_INTERVAL_S`; errors as for `is_complete`."""
        started = reported = time.monotonic()
        while not self.is_complete():
            if time.monotonic() - reported >= REPORT_INTERVAL_S:
                reported = time.monotonic()
                logger.warning(
                    "reward pools have not loaded their models after %.0f s: %s. Free now: %s",
                    reported - started,
                    ", ".join(self._loading),
                    ray.available_resources(),
                )
            time.sleep(POLL_S)

    def _is_open(self, name: str) -> bool:
        if name not in self._asked:
            self._asked[name] = ray.get_actor(name, namespace=NAMESPACE).opened.remote()
        if not ray.wait([self._asked[name]], timeout=0)[0]:
            return False
        failure: BaseException | None = ray.get(self._asked.pop(name))
        if failure is not None:
            raise failure
        return True

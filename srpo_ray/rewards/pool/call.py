"""One call to the pool: sent to the least-loaded replica, and sent again, unchanged, if that replica is lost."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from srpo_ray.config.reward import PoolConfig
from srpo_ray.rewards.base import RewardError
from srpo_ray.rewards.pool.messages import Assignment, Pixels, ReplicaHealth, Reply
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.statistics import ScoringStatistics

logger = logging.getLogger(__name__)

PING_TIMEOUT_S = 10.0
RESTART_TIMEOUT_S = 1800.0
"""Patience while every replica is restarting: time for a lost node to be replaced and large models to be loaded."""
RETRY_INTERVAL_S = 0.1
REPLICA_LOST = (RayActorError, ObjectLostError, NodeDiedError, WorkerCrashedError)


class _LostReplicaError(Exception):
    """The call got no answer, through no fault of the reward."""


class RemoteCall:
    """A batch of at most `micro_batch_size` pictures on its way through the pool.

    The pixels are put into the object store once; a replay sends the same object.

    Args:
        dispatcher: The pool's front desk.
        config: Section `pool` of the config.
        statistics: Counters of the client.
        pixels: Wire form of the pictures, per framing `[B, 3, size, size]`.
        queries: B text queries.
        models: Weights of the training rewards for value and gradient, or names of models for values only.
    """

    def __init__(
        self,
        dispatcher: Any,
        config: PoolConfig,
        statistics: ScoringStatistics,
        pixels: Pixels,
        queries: Sequence[TextQuery],
        models: Mapping[str, float] | Sequence[str],
    ) -> None:
        self._dispatcher = dispatcher
        self._config = config
        self._statistics = statistics
        self._queries = tuple(queries)
        self._models = models
        self._pixels = ray.put(pixels)
        statistics.bytes_sent += sum(array.nbytes for array in pixels.values())
        self._assignment: Assignment | None = None
        self._answer: Any = None
        self._sent_at = 0.0

    def send(self) -> bool:
        """Send to the least-loaded replica; False if none is in service now.

        Raises:
            RewardError: If the pool does not exist any more.
        """
        try:
            assignment: Assignment | None = ray.get(self._dispatcher.assign.remote(len(self._queries)))
        except RayActorError as error:
            raise self._failure("the pool has ended, with the driver that made it or by its shutdown()") from error
        if assignment is None:
            return False
        method = assignment.handle.score if isinstance(self._models, Mapping) else assignment.handle.measure
        self._assignment = assignment
        self._sent_at = time.monotonic()
        self._answer = method.remote(assignment.ticket, self._pixels, self._queries, self._models)
        return True

    def collect(self) -> Reply:
        """Wait for the answer; if the replica is lost, send the call again, `max_attempts` times in all.

        Raises:
            RewardError: If the reward failed, or every attempt was lost.
            ValueError: If a replica cannot load its models after a restart.
        """
        reasons: list[str] = []
        while len(reasons) < self._config.max_attempts:
            self._statistics.replays += bool(reasons)
            try:
                return self._attempt()
            except _LostReplicaError as lost:
                reasons.append(str(lost))
                self._answer = None
                logger.warning("lost a call to a reward replica, attempt %d: %s", len(reasons), lost)
        raise self._failure(f"no answer in {len(reasons)} attempts: " + "; ".join(reasons))

    def _attempt(self) -> Reply:
        if self._answer is None and not self.send():
            self._send_after_restart()
        patience = max(0.0, self._sent_at + self._config.timeout_s - time.monotonic())
        while not ray.wait([self._answer], timeout=patience)[0]:
            patience = self._patience_left()
        return self._open_answer()

    def _send_after_restart(self) -> None:
        logger.warning("no reward replica is in service; waiting for one to restart")
        deadline = time.monotonic() + RESTART_TIMEOUT_S
        while not self.send():
            if time.monotonic() > deadline:
                raise self._failure(f"no replica came back within {RESTART_TIMEOUT_S:g} s")
            time.sleep(RETRY_INTERVAL_S)

    def _open_answer(self) -> Reply:
        try:
            reply: Reply = ray.get(self._answer)
        except RayTaskError as error:
            raise error.cause from error
        except REPLICA_LOST as error:
            raise self._lost(f"died ({type(error).__name__})", kill=False) from error
        self._statistics.calls += 1
        self._statistics.round_trip_s += time.monotonic() - self._sent_at
        self._statistics.compute_s += reply.compute_s
        return reply

    def _patience_left(self) -> float:
        """More seconds to wait for an answer that is late: the call may stand in line behind others that make progress.

        Raises:
            _LostReplicaError: If the replica hangs, has been restarted or does not know the call.
        """
        assert self._assignment is not None, "a call that was not sent cannot be late"
        try:
            health: ReplicaHealth = ray.get(self._assignment.handle.ping.remote(), timeout=PING_TIMEOUT_S)
        except GetTimeoutError as error:
            raise self._lost(f"did not answer a ping within {PING_TIMEOUT_S:g} s", kill=True) from error
        except RayActorError as error:
            raise self._lost(f"died ({type(error).__name__})", kill=False) from error
        if health.start_id != self._assignment.start_id:
            raise self._lost("was restarted", kill=False)
        if health.busy_s >= self._config.timeout_s:
            raise self._lost(f"(pid {health.pid}) was at one call for {health.busy_s:.1f} s", kill=True)
        if health.busy_s == 0 and not ray.wait([self._answer], timeout=PING_TIMEOUT_S)[0]:
            raise self._lost("is idle and sent no answer", kill=False)
        return self._config.timeout_s - health.busy_s

    def _lost(self, reason: str, kill: bool) -> _LostReplicaError:
        """Report the replica and make the error; the dispatcher ignores all but the first report about one start."""
        assert self._assignment is not None, "a call that was not sent cannot be lost"
        self._dispatcher.report_lost.remote(self._assignment.replica, self._assignment.start_id, kill)
        return _LostReplicaError(f"replica {self._assignment.replica!r} {reason}")

    def _failure(self, reason: str) -> RewardError:
        replica = self._assignment.replica if self._assignment else "no replica"
        return RewardError(", ".join(self._models), [str(query) for query in self._queries], replica, reason)

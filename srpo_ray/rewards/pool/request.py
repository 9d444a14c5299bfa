"""One call to the pool: sent to the replica that has a place, and sent again, unchanged, if that replica is lost."""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
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

from srpo_ray.config.rewards import PoolConfig
from srpo_ray.rewards.base import RewardError
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.pool.messages import Assignment, Pixels, Reply
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.statistics import ScoringStatistics

logger = logging.getLogger(__name__)

ANSWER_GRACE_S = 10.0
"""Seconds between the end of a call at its replica and its answer here."""
SLOT_TIMEOUT_S = 1800.0
"""Patience for a place: time for a lost node to be replaced and large models to be loaded."""
REPLICA_LOST = (RayActorError, ObjectLostError, NodeDiedError, WorkerCrashedError)


class _LostReplicaError(Exception):
    """The call got no answer, through no fault of the reward."""


class StoredPixels:
    """Images in Ray's object store: put there when the first call with them is sent, once for all calls.

    Args:
        arrays: Wire form of the images, per input_spec `[B, 3, size, size]`.
        statistics: Counters of the client.
    """

    def __init__(self, arrays: Pixels, statistics: ScoringStatistics) -> None:
        self._arrays = arrays
        self._statistics = statistics
        self._stored: dict[InputSpec, Any] = {}

    def references(self, input_specs: Iterable[InputSpec]) -> list[Any]:
        """References to the images of some input_specs."""
        for input_spec in input_specs:
            if input_spec not in self._stored:
                self._statistics.bytes_sent += self._arrays[input_spec].nbytes
                self._stored[input_spec] = ray.put(self._arrays[input_spec])
        return [self._stored[input_spec] for input_spec in input_specs]


class RemoteCall:
    """A batch of at most `micro_batch_size` images on its way to one group of replicas.

    Args:
        router: The pool's front desk.
        config: Section `pool` of the config.
        statistics: Counters of the client.
        group: The replicas that hold `models`.
        pixels: The images.
        input_specs: Those that the models read.
        queries: B text queries.
        models: Weights of the training rewards for value and gradient, or names of models for values only.
    """

    def __init__(
        self,
        router: Any,
        config: PoolConfig,
        statistics: ScoringStatistics,
        group: str,
        pixels: StoredPixels,
        input_specs: Sequence[InputSpec],
        queries: Sequence[TextQuery],
        models: Mapping[str, float] | Sequence[str],
    ) -> None:
        self._router = router
        self._config = config
        self._statistics = statistics
        self._group = group
        self._pixels = pixels
        self._input_specs = tuple(input_specs)
        self._queries = tuple(queries)
        self._models = models
        self._assignment: Assignment | None = None
        self._answer: Any = None
        self._sent_at = 0.0

    def send(self) -> None:
        """Wait for a place in a replica's queue and send; see `RewardRouter` for why there always comes one.

        Raises:
            RewardError: If the pool does not exist any more, or no place came free in half an hour.
        """
        assigned = self._router.assign.remote(self._group, len(self._queries))
        # Stored while the router answers: one call's pixels per client may wait there before there is a place.
        pixels = self._pixels.references(self._input_specs)
        try:
            assignment: Assignment = ray.get(assigned, timeout=SLOT_TIMEOUT_S)
        except GetTimeoutError as error:
            raise self._failure(f"no replica had a place for it within {SLOT_TIMEOUT_S:g} s") from error
        except RayActorError as error:
            raise self._pool_ended() from error
        except RayTaskError as error:
            raise self._failure(str(error.cause)) from error
        self._statistics.count_slot(assignment.waited_s, assignment.queue_depth, assignment.in_service)
        method = assignment.handle.score if isinstance(self._models, Mapping) else assignment.handle.measure
        self._assignment = assignment
        self._sent_at = time.monotonic()
        self._answer = method.remote(assignment.request_id, self._queries, self._models, self._input_specs, *pixels)

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
        if self._answer is None:
            self.send()
        while not ray.wait([self._answer], timeout=self._config.timeout_s)[0]:
            # A call that is late may stand in line; the router kills a replica that hangs, which ends the call.
            if not self._is_ongoing() and not ray.wait([self._answer], timeout=ANSWER_GRACE_S)[0]:
                raise self._lost("does not know the call any more")
        return self._open_answer()

    def _open_answer(self) -> Reply:
        try:
            reply: Reply = ray.get(self._answer)
        except RayTaskError as error:
            raise error.cause from error
        except REPLICA_LOST as error:
            raise self._lost(f"died ({type(error).__name__})") from error
        self._statistics.calls += 1
        self._statistics.round_trip_s += time.monotonic() - self._sent_at
        self._statistics.compute_s += reply.compute_s
        return reply

    def _is_ongoing(self) -> bool:
        assert self._assignment is not None, "a call that was not sent cannot be late"
        try:
            return ray.get(self._router.is_ongoing.remote(self._assignment.request_id))
        except RayActorError as error:
            raise self._pool_ended() from error

    def _lost(self, reason: str) -> _LostReplicaError:
        """Report the replica and make the error; the router ignores all but the first report about one start."""
        assert self._assignment is not None, "a call that was not sent cannot be lost"
        self._router.report_lost.remote(self._assignment.replica, self._assignment.start_id)
        return _LostReplicaError(f"replica {self._assignment.replica!r} {reason}")

    def _pool_ended(self) -> RewardError:
        return self._failure("the pool has ended, with the driver that made it or by its shutdown()")

    def _failure(self, reason: str) -> RewardError:
        replica = self._assignment.replica if self._assignment else "no replica"
        return RewardError(", ".join(self._models), [str(query) for query in self._queries], replica, reason)

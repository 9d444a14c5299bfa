"""One call to the pool: sent to a replica with a free slot, and replayed unchanged if that replica is lost."""

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
from srpo_ray.rewards.base import LostRewardError, RewardError
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.pool.messages import Assignment, Pixels, Reply
from srpo_ray.rewards.query import Pairs, TextQuery
from srpo_ray.rewards.statistics import ScoringStatistics

logger = logging.getLogger(__name__)

ANSWER_GRACE_S = 10.0
"""Maximum seconds between the end of a call at its replica and the arrival of its answer here."""
SLOT_TIMEOUT_S = 1800.0
"""Timeout of the wait for a slot: enough to replace a lost node and load large models."""
REPLICA_LOST = (RayActorError, ObjectLostError, NodeDiedError, WorkerCrashedError)


class _LostReplicaError(Exception):
    """A call without an answer, for another reason than an error of the reward."""


class StoredPixels:
    """Images in Ray's object store, put there once, when the first call with them is sent.

    Args:
        arrays: Wire form of the images, per input spec `[B, 3, size, size]`.
        statistics: Counters of the client.
    """

    def __init__(self, arrays: Pixels, statistics: ScoringStatistics) -> None:
        self._arrays = arrays
        self._statistics = statistics
        self._stored: dict[InputSpec, Any] = {}

    def references(self, input_specs: Iterable[InputSpec]) -> list[Any]:
        """References to the images of these input specs."""
        for input_spec in input_specs:
            if input_spec not in self._stored:
                self._statistics.bytes_sent += self._arrays[input_spec].nbytes
                self._stored[input_spec] = ray.put(self._arrays[input_spec])
        return [self._stored[input_spec] for input_spec in input_specs]


class RemoteCall:
    """Call to one group of replicas with at most `micro_batch_size` images, or pairs of images.

    Args:
        router: Handle of the pool's router.
        config: Section `pool` of the config.
        statistics: Counters of the client.
        group: Name of the group whose replicas load `models`.
        pixels: The images.
        input_specs: Input specs that the models read.
        queries: B text queries.
        models: Weights of the training rewards for value and gradient, or names of models for values only.
        pairs: Pairs of images that the models compare; empty if they score every image.
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
        pairs: Pairs = (),
    ) -> None:
        self._router = router
        self._config = config
        self._statistics = statistics
        self._group = group
        self._pixels = pixels
        self._input_specs = tuple(input_specs)
        self._queries = tuple(queries)
        self._models = models
        self._pairs = pairs
        self._assignment: Assignment | None = None
        self._answer: Any = None
        self._sent_at = 0.0

    def send(self) -> None:
        """Wait for a request slot and send the call; `RewardRouter` explains why a slot always becomes free.

        Raises:
            RewardError: If the pool no longer exists, or no slot became free in half an hour.
        """
        assigned = self._router.assign.remote(self._group, len(self._pairs) or len(self._queries))
        # Stored while the router answers: at most the pixels of one call per client wait there for a slot.
        pixels = self._pixels.references(self._input_specs)
        try:
            assignment: Assignment = ray.get(assigned, timeout=SLOT_TIMEOUT_S)
        except GetTimeoutError as error:
            raise self._failure(f"no replica had a free request slot within {SLOT_TIMEOUT_S:g} s") from error
        except RayActorError as error:
            raise self._pool_ended() from error
        except RayTaskError as error:
            raise self._failure(str(error.cause)) from error
        self._statistics.count_slot(assignment.waited_s, assignment.queue_depth, assignment.in_service)
        self._assignment = assignment
        self._sent_at = time.monotonic()
        call, inputs = (assignment.request_id, self._queries, self._models), (self._input_specs, *pixels)
        if self._pairs:
            self._answer = assignment.handle.compare.remote(*call, self._pairs, *inputs)
            return
        method = assignment.handle.score if isinstance(self._models, Mapping) else assignment.handle.measure
        self._answer = method.remote(*call, *inputs)

    def collect(self) -> Reply:
        """Wait for the answer; if the replica is lost, replay the call, with at most `max_attempts` attempts in total.

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
            # A late call may still be queued at its replica. If the replica hangs, the router kills it, which ends the
            # call.
            if not self._is_ongoing() and not ray.wait([self._answer], timeout=ANSWER_GRACE_S)[0]:
                raise self._lost("no longer has the call")
        return self._open_answer()

    def _open_answer(self) -> Reply:
        try:
            reply: Reply = ray.get(self._answer)
        except RayTaskError as error:
            if isinstance(error.cause, LostRewardError):
                raise self._lost(f"lost {error.cause.replica}: {error.cause.reason}", kill=True) from error
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

    def _lost(self, reason: str, *, kill: bool = False) -> _LostReplicaError:
        """Report the replica as lost and return the error; the router ignores repeated reports about one start."""
        assert self._assignment is not None, "a call that was not sent cannot be lost"
        self._router.report_lost.remote(self._assignment.replica, self._assignment.start_id, kill)
        return _LostReplicaError(f"replica {self._assignment.replica!r} {reason}")

    def _pool_ended(self) -> RewardError:
        return self._failure("the pool has ended: its driver ended or called shutdown()")

    def _failure(self, reason: str) -> RewardError:
        replica = self._assignment.replica if self._assignment else "no replica"
        return RewardError(", ".join(self._models), [str(query) for query in self._queries], replica, reason)

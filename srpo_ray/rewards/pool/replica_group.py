"""Group of replicas with the same models: scheduling of calls and the target number of replicas."""

from asyncio import Future
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from srpo_ray.config.count import largest, smallest
from srpo_ray.config.rewards import PoolConfig
from srpo_ray.rewards.pool.messages import Assignment, ReplicaHealth

STALE_AFTER_S = 10.0
"""Age beyond which a call that never reached its replica is stale; replicas process calls in order of assignment."""
RETRY_START_S = 60.0
"""Pause between a replica that failed to load and the start of another."""


class Replicas(Protocol):
    """Interface by which the router starts, stops and restarts replicas: `RayReplicas`, or a fake in tests."""

    def start(self, group: str, name: str) -> Any: ...
    def stop(self, handle: Any) -> None: ...
    def restart(self, handle: Any) -> None: ...
    def draining_nodes(self) -> Iterable[str]: ...


@dataclass(frozen=True)
class OngoingRequest:
    """Call that is assigned to a replica and has not ended; it occupies one request slot."""

    images: int
    assigned_at: float


@dataclass(frozen=True)
class QueuedRequest:
    """Call that waits for a free request slot."""

    images: int
    since: float
    answer: "Future[Assignment]"


@dataclass
class ReplicaState:
    """State of one replica as the router knows it."""

    name: str
    handle: Any
    last_used: float
    """Time of its start, or of the last assignment or end of a call."""
    state: Literal["starting", "serving", "lost", "draining"] = "starting"
    """`starting`: not scheduled or not loaded yet. `lost`: Ray restarts it. `draining`: gets no new calls."""
    start_id: str = ""
    node_id: str = ""
    ongoing: dict[int, OngoingRequest] = field(default_factory=dict)
    ping_pending: bool = False
    """True while a ping is unanswered."""

    @property
    def load(self) -> int:
        """Images assigned and not yet scored."""
        return sum(request.images for request in self.ongoing.values())

    def serve(self, start_id: str, node_id: str) -> None:
        """Put the replica in service under the identity of its current process."""
        self.state, self.start_id, self.node_id = "serving", start_id, node_id

    def drop_stale(self, health: ReplicaHealth, asked: float) -> None:
        """Free the slots of stale calls, whose client died before it sent them.

        A call is stale if it was assigned at least `STALE_AFTER_S` before the ping of a replica that has been idle for
        as long, or at least `STALE_AFTER_S` before the call that the replica works on.

        Args:
            health: Answer of the replica to a ping.
            asked: Time of the ping.
        """
        if health.request_id is None:
            latest = asked - STALE_AFTER_S if health.state_s >= STALE_AFTER_S else None
        else:
            at_work = self.ongoing.get(health.request_id)
            latest = at_work.assigned_at - STALE_AFTER_S if at_work else None
        if latest is not None:
            self.ongoing = {
                request_id: request for request_id, request in self.ongoing.items() if request.assigned_at > latest
            }


class ReplicaGroup:
    """The replicas of one set of models and the queue of calls for them. It starts and stops no processes itself.

    `target` is the desired number of replicas: `num_replicas`, or, for a range, a number in it that follows the queue.
    It changes by one at a time: up when more than `upscale_queue_length` calls per replica have waited for
    `upscale_delay_s` without a break, down when a replica had no call and the queue was empty for `downscale_delay_s`.

    Args:
        name: Name of the group and prefix of its replicas' names.
        models: Names of the models.
        config: Section `pool` of the config.
        request_ids: Source of request ids, shared by all groups so that ids are unique.
        now: Seconds of the router's clock.
    """

    def __init__(
        self, name: str, models: Sequence[str], config: PoolConfig, request_ids: Iterator[int], now: float
    ) -> None:
        self.name = name
        self.models = tuple(models)
        self.replicas: dict[str, ReplicaState] = {}
        self.queue: deque[QueuedRequest] = deque()
        self.target = smallest(config.num_replicas)
        self._added = 0
        self._request_ids = request_ids
        self._config = config
        self._long_queue_since: float | None = None
        self._last_queued = now
        self._start_after = now

    @property
    def in_service(self) -> list[ReplicaState]:
        """Replicas that take calls."""
        return [replica for replica in self.replicas.values() if replica.state == "serving"]

    @property
    def active(self) -> list[ReplicaState]:
        """Replicas that count towards the target."""
        return [replica for replica in self.replicas.values() if replica.state != "draining"]

    @property
    def queue_depth(self) -> int:
        """Number of calls that wait: for a request slot, or at a replica behind the call that it works on."""
        return len(self.queue) + sum(max(0, len(replica.ongoing) - 1) for replica in self.in_service)

    @property
    def next_name(self) -> str:
        """Name of the next replica."""
        return f"{self.name}/{self._added}"

    def add(self, handle: Any, now: float) -> ReplicaState:
        """Add a replica that was started under `next_name`."""
        replica = ReplicaState(self.next_name, handle, now)
        self.replicas[replica.name] = replica
        self._added += 1
        return replica

    def assign_queued(self, now: float) -> None:
        """Assign free request slots to queued calls, oldest first."""
        while self.queue and (replica := self.choose()):
            call = self.queue.popleft()
            if call.answer.done():
                continue
            request_id, depth = next(self._request_ids), self.queue_depth
            replica.ongoing[request_id] = OngoingRequest(call.images, now)
            replica.last_used = now
            waited_s, in_service = now - call.since, len(self.in_service)
            call.answer.set_result(
                Assignment(request_id, replica.name, replica.start_id, replica.handle, waited_s, depth, in_service)
            )

    def release(self, request_id: int, now: float) -> None:
        """Free the slot of a call that has ended, and assign it to a queued one."""
        for replica in self.replicas.values():
            if replica.ongoing.pop(request_id, None):
                replica.last_used = now
        self.assign_queued(now)

    def drain(self, nodes: Container[str]) -> list[ReplicaState]:
        """Take the replicas on these nodes out of service; they no longer count, so the group starts replacements."""
        draining = [replica for replica in self.in_service if replica.node_id in nodes]
        for replica in draining:
            replica.state = "draining"
        return draining

    def choose(self) -> ReplicaState | None:
        """Return the replica with the fewest images to score, the first among equals; None if no slot is free.

        It takes the first and not round-robin, so that the last replicas become idle and can be removed.
        """
        free = [replica for replica in self.in_service if len(replica.ongoing) < self._config.max_ongoing_requests]
        return min(free, key=lambda replica: replica.load, default=None)

    def missing(self, now: float) -> int:
        """Number of replicas to start now."""
        return max(0, self.target - len(self.active)) if now >= self._start_after else 0

    def rescale(self, now: float) -> None:
        """Change the target by at most one, as the queue requires; on a decrease, drain one idle replica."""
        depth, config = self.queue_depth, self._config
        if depth:
            self._last_queued = now
        # Starting replicas count, so that one slow load does not trigger further starts.
        if depth <= config.upscale_queue_length * self.target:
            self._long_queue_since = None
        elif self._long_queue_since is None:
            self._long_queue_since = now
        if self._long_queue_since is not None:
            if now - self._long_queue_since >= config.upscale_delay_s and self.target < largest(config.num_replicas):
                self.target += 1
                self._long_queue_since = now
        elif self.target > smallest(config.num_replicas) and now - self._last_queued >= config.downscale_delay_s:
            self._drain_one(now)

    def remove_failed(self, replica: ReplicaState, now: float) -> None:
        """Remove a replica that failed to load; if the target requires another, it starts after `RETRY_START_S`."""
        del self.replicas[replica.name]
        self.target = max(smallest(self._config.num_replicas), len(self.active))
        self._start_after = now + RETRY_START_S

    def _drain_one(self, now: float) -> None:
        idle = [
            replica
            for replica in self.active
            if not replica.ongoing and now - replica.last_used >= self._config.downscale_delay_s
        ]
        if idle:
            # Replicas without a loaded process first, then the youngest.
            spare = max(idle, key=lambda replica: (replica.state != "serving", list(self.replicas).index(replica.name)))
            spare.state = "draining"
            self.target -= 1

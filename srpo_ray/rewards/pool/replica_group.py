"""Replicas that hold the same models: which of them gets the next call, and how many of them there should be."""

from asyncio import Future
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from srpo_ray.config.count import largest, smallest
from srpo_ray.config.rewards import PoolConfig
from srpo_ray.rewards.pool.messages import Assignment, ReplicaHealth

STALE_AFTER_S = 10.0
"""A replica takes calls up in the order they come; one that was placed so much earlier will not come any more."""
RETRY_START_S = 60.0
"""Pause before another replica is started after one could not load."""


class Replicas(Protocol):
    """How the router starts, stops and restarts processes; `RayReplicas`, or a stand-in in tests."""

    def start(self, group: str, name: str) -> Any: ...
    def stop(self, handle: Any) -> None: ...
    def restart(self, handle: Any) -> None: ...
    def draining_nodes(self) -> Iterable[str]: ...


@dataclass(frozen=True)
class OngoingRequest:
    """A call that a replica was given and has not ended."""

    images: int
    assigned_at: float


@dataclass(frozen=True)
class QueuedRequest:
    """A call that no replica has a place for."""

    images: int
    since: float
    answer: "Future[Assignment]"


@dataclass
class ReplicaState:
    """One replica as the router sees it."""

    name: str
    handle: Any
    last_used: float
    """When it was started or last had a call."""
    state: Literal["starting", "serving", "lost", "draining"] = "starting"
    """`starting`: not placed or not loaded yet. `lost`: Ray restarts it. `draining`: gets no new calls."""
    start_id: str = ""
    node_id: str = ""
    ongoing: dict[int, OngoingRequest] = field(default_factory=dict)
    ping_pending: bool = False
    """Whether a ping is on its way to it."""

    @property
    def load(self) -> int:
        """Images assigned and not yet scored."""
        return sum(request.images for request in self.ongoing.values())

    def serve(self, start_id: str, node_id: str) -> None:
        """Put it in service, as the process that it is now."""
        self.state, self.start_id, self.node_id = "serving", start_id, node_id

    def drop_stale(self, health: ReplicaHealth, asked: float) -> None:
        """Forget calls whose client died before it sent them: the replica has been idle since, or is at a later one."""
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
    """The replicas of one set of models and the calls that wait for them. It starts and stops nothing itself.

    `target` is the number of replicas that should be there: `num_replicas`, or within its range the number that the
    work has called for. It moves by one at a time, up while more than `upscale_queue_length` calls per replica wait for
    `upscale_delay_s` on end, down when a replica had no call, and none waited, for `downscale_delay_s`.

    Args:
        name: Name of the group, which the names of its replicas begin with.
        models: Names of the models.
        config: Section `pool` of the config.
        request_ids: Numbers for calls, of which no other group gets the same.
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
        """Calls that wait: for a place, or at a replica behind the one at work."""
        return len(self.queue) + sum(max(0, len(replica.ongoing) - 1) for replica in self.in_service)

    @property
    def next_name(self) -> str:
        """Name of the next replica."""
        return f"{self.name}/{self._added}"

    def add(self, handle: Any, now: float) -> ReplicaState:
        """Take in a replica that was started under `next_name`."""
        replica = ReplicaState(self.next_name, handle, now)
        self.replicas[replica.name] = replica
        self._added += 1
        return replica

    def assign_queued(self, now: float) -> None:
        """Give places to calls that wait, as long as there are both."""
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
        """Forget a call that has ended, and give its place to one that waits."""
        for replica in self.replicas.values():
            if replica.ongoing.pop(request_id, None):
                replica.last_used = now
        self.assign_queued(now)

    def drain(self, nodes: Container[str]) -> list[ReplicaState]:
        """Take the replicas on some nodes out of service for good; the target asks for others in their place."""
        draining = [replica for replica in self.in_service if replica.node_id in nodes]
        for replica in draining:
            replica.state = "draining"
        return draining

    def choose(self) -> ReplicaState | None:
        """The replica with the fewest images to score, among equals the first; None if none has a place.

        The first and not each in turn, so that the last ones fall idle and can go.
        """
        free = [replica for replica in self.in_service if len(replica.ongoing) < self._config.max_ongoing_requests]
        return min(free, key=lambda replica: replica.load, default=None)

    def missing(self, now: float) -> int:
        """How many replicas to start now."""
        return max(0, self.target - len(self.active)) if now >= self._start_after else 0

    def rescale(self, now: float) -> None:
        """Move the target by one if the work calls for it; a replica that has become spare is set to leave."""
        depth, config = self.queue_depth, self._config
        if depth:
            self._last_queued = now
        # Those that are still starting count, so that one long load does not call for ever more.
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
        """Take out a replica that could not load; another try, if the target asks for one, comes later."""
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
            # Those without a process first, then the youngest.
            spare = max(idle, key=lambda replica: (replica.state != "serving", list(self.replicas).index(replica.name)))
            spare.state = "draining"
            self.target -= 1

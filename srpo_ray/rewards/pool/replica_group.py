"""Replicas that hold the same models: which of them gets the next call, and how many of them there should be."""

from asyncio import Future
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from srpo_ray.config.count import largest, smallest
from srpo_ray.config.rewards import PoolConfig
from srpo_ray.rewards.pool.messages import Assignment, ReplicaHealth

OVERTAKEN_S = 10.0
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
class Ticket:
    """A call that a replica was given and has not ended."""

    images: int
    since: float


@dataclass(frozen=True)
class Waiting:
    """A call that no replica has a place for."""

    images: int
    since: float
    answer: "Future[Assignment]"


@dataclass
class Slot:
    """One replica as the router sees it."""

    name: str
    handle: Any
    last_used: float
    """When it was started or last had a call."""
    state: Literal["starting", "serving", "lost", "leaving"] = "starting"
    """`starting`: not placed or not loaded yet. `lost`: Ray restarts it. `leaving`: gets no new calls."""
    start_id: str = ""
    node_id: str = ""
    tickets: dict[int, Ticket] = field(default_factory=dict)
    checked: bool = False
    """Whether a ping is on its way to it."""

    @property
    def load(self) -> int:
        """Images assigned and not yet scored."""
        return sum(ticket.images for ticket in self.tickets.values())

    def serve(self, start_id: str, node_id: str) -> None:
        """Put it in service, as the process that it is now."""
        self.state, self.start_id, self.node_id = "serving", start_id, node_id

    def drop_overtaken(self, health: ReplicaHealth, asked: float) -> None:
        """Forget calls whose client died before it sent them: the replica has been idle since, or is at a later one."""
        if health.ticket is None:
            latest = asked - OVERTAKEN_S if health.state_s >= OVERTAKEN_S else None
        else:
            at_work = self.tickets.get(health.ticket)
            latest = at_work.since - OVERTAKEN_S if at_work else None
        if latest is not None:
            self.tickets = {number: ticket for number, ticket in self.tickets.items() if ticket.since > latest}


class ReplicaGroup:
    """The replicas of one set of models and the calls that wait for them. It starts and stops nothing itself.

    `target` is the number of replicas that should be there: `num_replicas`, or within its range the number that the
    work has called for. It moves by one at a time, up while more than `upscale_queue_length` calls per replica wait for
    `upscale_delay_s` on end, down when a replica had no call, and none waited, for `downscale_delay_s`.

    Args:
        name: Name of the group, which the names of its replicas begin with.
        models: Names of the models.
        config: Section `pool` of the config.
        tickets: Numbers for calls, of which no other group gets the same.
        now: Seconds of the router's clock.
    """

    def __init__(
        self, name: str, models: Sequence[str], config: PoolConfig, tickets: Iterator[int], now: float
    ) -> None:
        self.name = name
        self.models = tuple(models)
        self.slots: dict[str, Slot] = {}
        self.waiting: deque[Waiting] = deque()
        self.target = smallest(config.num_replicas)
        self._added = 0
        self._tickets = tickets
        self._config = config
        self._crowded_since: float | None = None
        self._last_crowd = now
        self._start_after = now

    @property
    def in_service(self) -> list[Slot]:
        """Replicas that take calls."""
        return [slot for slot in self.slots.values() if slot.state == "serving"]

    @property
    def staying(self) -> list[Slot]:
        """Replicas that count towards the target."""
        return [slot for slot in self.slots.values() if slot.state != "leaving"]

    @property
    def queue_depth(self) -> int:
        """Calls that wait: for a place, or at a replica behind the one at work."""
        return len(self.waiting) + sum(max(0, len(slot.tickets) - 1) for slot in self.in_service)

    @property
    def next_name(self) -> str:
        """Name of the next replica."""
        return f"{self.name}/{self._added}"

    def add(self, handle: Any, now: float) -> Slot:
        """Take in a replica that was started under `next_name`."""
        slot = Slot(self.next_name, handle, now)
        self.slots[slot.name] = slot
        self._added += 1
        return slot

    def place(self, now: float) -> None:
        """Give places to calls that wait, as long as there are both."""
        while self.waiting and (slot := self.choose()):
            call = self.waiting.popleft()
            if call.answer.done():
                continue
            number, depth = next(self._tickets), self.queue_depth
            slot.tickets[number] = Ticket(call.images, now)
            slot.last_used = now
            waited_s, in_service = now - call.since, len(self.in_service)
            call.answer.set_result(
                Assignment(number, slot.name, slot.start_id, slot.handle, waited_s, depth, in_service)
            )

    def release(self, ticket: int, now: float) -> None:
        """Forget a call that has ended, and give its place to one that waits."""
        for slot in self.slots.values():
            if slot.tickets.pop(ticket, None):
                slot.last_used = now
        self.place(now)

    def leave(self, nodes: Container[str]) -> list[Slot]:
        """Take the replicas on some nodes out of service for good; the target asks for others in their place."""
        leaving = [slot for slot in self.in_service if slot.node_id in nodes]
        for slot in leaving:
            slot.state = "leaving"
        return leaving

    def choose(self) -> Slot | None:
        """The replica with the fewest images to score, among equals the first; None if none has a place.

        The first and not each in turn, so that the last ones fall idle and can go.
        """
        free = [slot for slot in self.in_service if len(slot.tickets) < self._config.max_ongoing_requests]
        return min(free, key=lambda slot: slot.load, default=None)

    def missing(self, now: float) -> int:
        """How many replicas to start now."""
        return max(0, self.target - len(self.staying)) if now >= self._start_after else 0

    def rescale(self, now: float) -> None:
        """Move the target by one if the work calls for it; a replica that has become spare is set to leave."""
        depth, config = self.queue_depth, self._config
        if depth:
            self._last_crowd = now
        # Those that are still starting count, so that one long load does not call for ever more.
        if depth <= config.upscale_queue_length * self.target:
            self._crowded_since = None
        elif self._crowded_since is None:
            self._crowded_since = now
        if self._crowded_since is not None:
            if now - self._crowded_since >= config.upscale_delay_s and self.target < largest(config.num_replicas):
                self.target += 1
                self._crowded_since = now
        elif self.target > smallest(config.num_replicas) and now - self._last_crowd >= config.downscale_delay_s:
            self._let_one_go(now)

    def give_up(self, slot: Slot, now: float) -> None:
        """Take out a replica that could not load; another try, if the target asks for one, comes later."""
        del self.slots[slot.name]
        self.target = max(smallest(self._config.num_replicas), len(self.staying))
        self._start_after = now + RETRY_START_S

    def _let_one_go(self, now: float) -> None:
        idle = [
            slot for slot in self.staying if not slot.tickets and now - slot.last_used >= self._config.downscale_delay_s
        ]
        if idle:
            # Those without a process first, then the youngest.
            spare = max(idle, key=lambda slot: (slot.state != "serving", list(self.slots).index(slot.name)))
            spare.state = "leaving"
            self.target -= 1

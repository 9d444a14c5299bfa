"""The pool's front desk: a tiny actor by whose name any process finds the pool and the replica with the least to do."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from srpo_ray.config.reward import PoolConfig
from srpo_ray.rewards.pool.messages import Assignment, ModelInfo, PoolDescription, ReplicaHealth

TICKET_LIFE = 4.0
"""Life of a ticket in units of the call timeout: longer than any call that is still waited for."""


@dataclass
class _Slot:
    """One replica as the dispatcher sees it."""

    name: str
    handle: Any
    start_id: str
    tickets: dict[int, tuple[int, float]] = field(default_factory=dict)
    """Ticket -> (pictures, time at which it lapses)."""
    last_assigned: int = 0
    probe: Any = None
    """Ping on its way to a replica that was lost; None while the replica is in service."""
    killed: bool = False

    @property
    def load(self) -> int:
        """Pictures assigned and not yet scored."""
        return sum(pictures for pictures, _ in self.tickets.values())


class RewardDispatcher:
    """Counts the pictures that each replica has been given, and takes lost replicas out of service until they answer.

    A plain class; the pool makes a named actor of it. It never waits, so it answers in about a millisecond.

    Args:
        config: Section `pool` of the config.
        clock: Seconds; replaced in tests.
    """

    def __init__(self, config: PoolConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._models: dict[str, ModelInfo] = {}
        self._slots: dict[str, _Slot] = {}
        self._last_ticket = 0

    def open(self, replicas: Sequence[tuple[str, Any, str]], models: dict[str, ModelInfo]) -> None:
        """Start service with loaded replicas, each given as (name, handle, start id)."""
        self._slots = {name: _Slot(name, handle, start_id) for name, handle, start_id in replicas}
        self._models = models

    def describe(self) -> PoolDescription | None:
        """Settings and models; None while the replicas are still loading."""
        return PoolDescription(self._config, self._models) if self._slots else None

    def assign(self, pictures: int) -> Assignment | None:
        """The replica with the fewest pictures to score, among equals the longest unused; None if none is in service.

        Args:
            pictures: Number of pictures in the call.
        """
        now = self._clock()
        for slot in self._slots.values():
            self._look_after(slot, now)
        in_service = [slot for slot in self._slots.values() if slot.probe is None]
        if not in_service:
            return None
        slot = min(in_service, key=lambda slot: (slot.load, slot.last_assigned))
        self._last_ticket += 1
        slot.last_assigned = self._last_ticket
        slot.tickets[self._last_ticket] = (pictures, now + TICKET_LIFE * self._config.timeout_s)
        return Assignment(self._last_ticket, slot.name, slot.start_id, slot.handle)

    def release(self, ticket: int) -> None:
        """Forget a call that has ended; unknown tickets are those of a lost replica."""
        for slot in self._slots.values():
            slot.tickets.pop(ticket, None)

    def report_lost(self, replica: str, start_id: str, kill: bool) -> None:
        """Take a replica out of service until it answers again.

        Args:
            replica: Name of the replica.
            start_id: The start that was lost. Only the first report about it counts, so two clients that wait on
                one hung replica restart it once.
            kill: Whether the process hangs and has to be killed; Ray then starts it again.
        """
        slot = self._slots[replica]
        if slot.start_id != start_id or slot.probe is not None:
            return
        slot.tickets.clear()
        slot.killed = kill
        if kill:
            ray.kill(slot.handle, no_restart=False)
        slot.probe = slot.handle.ping.remote()

    def _look_after(self, slot: _Slot, now: float) -> None:
        """Drop lapsed tickets, whose client died before it sent the call; put a replica that is back in service."""
        slot.tickets = {ticket: entry for ticket, entry in slot.tickets.items() if entry[1] > now}
        if slot.probe is None or not ray.wait([slot.probe], timeout=0)[0]:
            return
        health = _answer(slot.probe)
        # The process to be killed may still answer for a moment.
        if health is None or (slot.killed and health.start_id == slot.start_id):
            slot.probe = slot.handle.ping.remote()
            return
        slot.start_id, slot.probe, slot.killed = health.start_id, None, False


def _answer(probe: Any) -> ReplicaHealth | None:
    try:
        return ray.get(probe)
    except RayError:
        return None

"""The pool's front desk: a small actor by whose name any process finds the pool and a place in it."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError

from srpo_ray.config.rewards import PoolConfig
from srpo_ray.errors import RunFailedError
from srpo_ray.rewards.pool.messages import Assignment, ModelInfo, PoolDescription, ReplicaDescription, ReplicaHealth
from srpo_ray.rewards.pool.replica_group import ReplicaGroup, Replicas, Slot, Waiting

logger = logging.getLogger(__name__)

TICK_S = 1.0
"""Pause between two looks at drains, queues and late calls."""
CHECK_AFTER_S = 5.0
"""Age of a call from which its replica is pinged, at most once per tick."""
PING_TIMEOUT_S = 10.0
RETRY_S = 0.1


class RewardRouter:
    """Owns the replicas: gives calls a place, follows the work with their number, looks after lost and drained ones.

    A plain class; the pool makes a named actor of it. All methods run on one event loop, so nothing is locked. The
    replicas are its children: they die with it, and it dies with the driver that made it.

    **Back-pressure.** A replica has at most `max_ongoing_requests` calls that it has not ended; `assign` answers when
    there is a place, first come, first served. It cannot deadlock. The replica gives a place back when a call ends,
    whether or not its client has collected the answer, so a client may submit any number of calls before it collects
    one, and waits in `submit` only for replicas that compute. A client asks for one place at a time and uses it at
    once, so no two can wait for places that they hold from each other. A place that is never given back, because the
    client died before it sent the call or the replica died or hangs, is found by the pings of `tick`.

    Args:
        config: Section `pool` of the config.
        groups: Names of the models that a replica of each group holds.
        replicas: Starts and stops processes.
        clock: Seconds; replaced in tests.
    """

    def __init__(
        self,
        config: PoolConfig,
        groups: Mapping[str, Sequence[str]],
        replicas: Replicas,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._replicas = replicas
        self._clock = clock
        tickets = itertools.count(1)
        self._groups = {name: ReplicaGroup(name, models, config, tickets, clock()) for name, models in groups.items()}
        self._models: dict[str, ModelInfo] = {}
        self._is_open = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    async def open(self) -> None:
        """Start the least number of replicas, wait until all have loaded, and begin service.

        Raises:
            ValueError, RewardError: If a model cannot be loaded.
            RunFailedError: If a replica dies while it loads.
        """
        slots = [self._start(group) for group in self._groups.values() for _ in range(group.target)]
        await asyncio.gather(*map(self._load_first, slots))
        self._is_open = True
        self._spawn(self._tick_for_ever())

    async def loading(self) -> tuple[int, int]:
        """Replicas in service, and replicas in all."""
        slots = [slot for group in self._groups.values() for slot in group.slots.values()]
        return sum(slot.state == "serving" for slot in slots), len(slots)

    async def describe(self) -> PoolDescription | None:
        """Settings and models; None while the first replicas are still loading."""
        if not self._is_open:
            return None
        groups = {name: group.models for name, group in self._groups.items()}
        models = {name: self._models[name] for names in groups.values() for name in names}
        return PoolDescription(self._config, models, groups)

    async def assign(self, group: str, images: int) -> Assignment:
        """A place for one call, as soon as a replica has one; see the class for why that is always so.

        Args:
            group: Which models are asked.
            images: Number of images in the call.
        """
        if self._failure is not None:
            raise self._failure_to_tell()
        waiting = Waiting(images, self._clock(), asyncio.get_running_loop().create_future())
        self._groups[group].waiting.append(waiting)
        self._groups[group].place(self._clock())
        return await waiting.answer

    async def release(self, ticket: int) -> None:
        """Forget a call that has ended; unknown tickets are those of a lost replica."""
        for group in self._groups.values():
            group.release(ticket, self._clock())

    async def holds(self, ticket: int) -> bool:
        """Whether a call is still with a replica that is looked after."""
        return any(ticket in slot.tickets for group in self._groups.values() for slot in group.slots.values())

    async def report_lost(self, replica: str, start_id: str) -> None:
        """Take a replica out of service until it answers again.

        Args:
            replica: Name of the replica.
            start_id: The start that was lost; a report about an earlier one, or a second one, changes nothing.
        """
        for group in self._groups.values():
            slot = group.slots.get(replica)
            if slot and slot.start_id == start_id and slot.state in ("serving", "leaving"):
                self._lose(group, slot, "was reported lost", kill=False)

    async def tick(self) -> None:
        """One look at everything: drains, the number of replicas, calls that are late."""
        draining = set(await asyncio.to_thread(self._replicas.draining_nodes))
        now = self._clock()
        for group in self._groups.values():
            for slot in group.leave(draining):
                logger.warning("reward replica %s leaves, as its node %s is drained", slot.name, slot.node_id)
            group.rescale(now)
            for slot in [slot for slot in group.slots.values() if slot.state == "leaving" and not slot.tickets]:
                self._remove(group, slot)
            for _ in range(group.missing(now)):
                self._spawn(self._load_more(group, self._start(group)))
            for slot in list(group.slots.values()):
                self._check_if_late(group, slot, now)
            group.place(self._clock())

    def _start(self, group: ReplicaGroup) -> Slot:
        return group.add(self._replicas.start(group.name, group.next_name), self._clock())

    async def _load_first(self, slot: Slot) -> None:
        try:
            await self._load(slot)
        except RayTaskError as error:
            raise error.cause from None
        except RayActorError as error:
            raise RunFailedError(f"reward replica {slot.name} died while it loaded its models: {error}") from None

    async def _load_more(self, group: ReplicaGroup, slot: Slot) -> None:
        logger.info("reward replica %s starts, %d in service", slot.name, len(group.in_service))
        try:
            await self._load(slot)
        except RayError as error:
            # Stopped while it waited for a node, or not able to load where the others could.
            if slot.name in group.slots:
                logger.warning("reward replica %s could not start, going on without it: %s", slot.name, error)
                self._replicas.stop(slot.handle)
                group.give_up(slot, self._clock())
            return
        group.place(self._clock())

    async def _load(self, slot: Slot) -> None:
        description: ReplicaDescription = await slot.handle.describe.remote()
        self._models |= description.models
        if slot.state == "starting":
            slot.last_used = self._clock()
            slot.serve(description.start_id, description.node_id)

    def _check_if_late(self, group: ReplicaGroup, slot: Slot, now: float) -> None:
        patience = min(CHECK_AFTER_S, self._config.timeout_s)
        late = any(now - ticket.since >= patience for ticket in slot.tickets.values())
        if late and not slot.checked:
            slot.checked = True
            self._spawn(self._check(group, slot))

    async def _check(self, group: ReplicaGroup, slot: Slot) -> None:
        """Find out whether a replica still works at its calls; a hung one is killed."""
        asked, start_id, timeout_s = self._clock(), slot.start_id, self._config.timeout_s
        health: ReplicaHealth | None = None
        reason, kill = "", False
        try:
            health = await asyncio.wait_for(slot.handle.ping.remote(), PING_TIMEOUT_S)
        except TimeoutError:
            reason, kill = f"did not answer a ping within {PING_TIMEOUT_S:g} s", True
        except RayError as error:
            reason = f"died ({type(error).__name__})"
        finally:
            slot.checked = False
        if slot.start_id != start_id or slot.state not in ("serving", "leaving"):
            return
        if health and health.start_id != start_id:
            reason = "was restarted"
        elif health and health.ticket is not None and health.state_s >= timeout_s:
            reason, kill = f"(pid {health.pid}) was at one call for {health.state_s:.1f} s", True
        if reason:
            self._lose(group, slot, reason, kill)
        elif health:
            slot.drop_overtaken(health, asked)
            group.place(self._clock())

    def _lose(self, group: ReplicaGroup, slot: Slot, reason: str, kill: bool) -> None:
        """Its calls end with an error at their clients, which send them again."""
        logger.warning("reward replica %s %s", slot.name, reason)
        slot.tickets.clear()
        if slot.state == "leaving":
            self._remove(group, slot)
            return
        slot.state = "lost"
        if kill:
            self._replicas.restart(slot.handle)
        self._spawn(self._revive(group, slot, killed=kill))

    async def _revive(self, group: ReplicaGroup, slot: Slot, *, killed: bool) -> None:
        """Put a lost replica back in service once it answers; Ray restarts it, elsewhere if its node is gone."""
        while slot.state == "lost" and slot.name in group.slots:
            try:
                health: ReplicaHealth = await slot.handle.ping.remote()
            except RayError:
                await asyncio.sleep(RETRY_S)
                continue
            # The process to be killed may still answer for a moment.
            if killed and health.start_id == slot.start_id:
                await asyncio.sleep(RETRY_S)
            elif slot.state == "lost":
                slot.serve(health.start_id, health.node_id)
                group.place(self._clock())

    def _remove(self, group: ReplicaGroup, slot: Slot) -> None:
        logger.info("reward replica %s is stopped, %d in service", slot.name, len(group.in_service))
        del group.slots[slot.name]
        self._replicas.stop(slot.handle)

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self.tick()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Nothing here may fail in silence: the next call to the pool fails with the same error."""
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            logger.error("the router of the reward pool failed", exc_info=self._failure)
            for group in self._groups.values():
                while group.waiting:
                    group.waiting.popleft().answer.set_exception(self._failure_to_tell())

    def _failure_to_tell(self) -> RunFailedError:
        return RunFailedError(f"the router of the reward pool failed: {self._failure!r}")

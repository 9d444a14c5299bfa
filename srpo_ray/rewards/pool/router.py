"""Named actor that owns the reward replicas, assigns calls to them, autoscales them and checks their health."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError

from srpo_ray.config.rewards import PoolConfig
from srpo_ray.errors import RunFailedError
from srpo_ray.rewards.pool.messages import (
    Assignment,
    Loading,
    ModelInfo,
    PoolDescription,
    ReplicaDescription,
    ReplicaHealth,
)
from srpo_ray.rewards.pool.replica_group import QueuedRequest, ReplicaGroup, Replicas, ReplicaState

logger = logging.getLogger(__name__)

TICK_S = 1.0
"""Pause between two ticks, which check drained nodes, queue lengths and late calls."""
CHECK_AFTER_S = 5.0
"""Age of a call from which its replica is pinged, at most once per tick."""
PING_TIMEOUT_S = 10.0
RETRY_S = 0.1


class RewardRouter:
    """Assigns calls to replicas, autoscales the replicas with the queue, and replaces lost and drained ones.

    A plain class; `start_router` makes a named actor of it. All methods run on one event loop, so there are no locks.
    The replicas are child actors: they die with the router, and the router dies with the driver that started it.

    **Back-pressure.** A replica has `max_ongoing_requests` request slots. `assign` answers when a slot is free, in
    order of arrival. Deadlock is impossible. A replica releases the slot when its call ends, whether or not the client
    has collected the answer, so a client may submit any number of calls before it collects one, and `submit` waits
    only for replicas that compute. A client requests one slot at a time and uses it at once, so no client keeps an
    unused slot while it waits for another. Slots that leak (the client died before it sent the call, or the replica
    died or hangs) are reclaimed by the health checks in `tick`.

    Args:
        config: Section `pool` of the config.
        groups: Group name -> names of the models that each of its replicas loads.
        replicas: Starts, stops and restarts replica processes.
        clock: Returns seconds; replaced in tests.
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
        request_ids = itertools.count(1)
        self._groups = {
            name: ReplicaGroup(name, models, config, request_ids, clock()) for name, models in groups.items()
        }
        self._models: dict[str, ModelInfo] = {}
        self._is_open = False
        self._opening: asyncio.Task[None] | None = None
        self._is_opening = asyncio.Event()
        self._placed: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    async def open(self) -> None:
        """Start the minimum number of replicas, wait until all have loaded, and accept calls.

        Raises:
            ValueError, RewardError: If a model cannot be loaded.
            RunFailedError: If a replica dies while it loads.
        """
        replicas = [self._start(group) for group in self._groups.values() for _ in range(group.target)]
        await asyncio.gather(*map(self._load_first, replicas))
        self._is_open = True
        self._spawn(self._tick_forever())

    async def start(self) -> None:
        """Begin to open the pool; `opened` tells the result."""
        self._opening = asyncio.create_task(self.open())
        self._is_opening.set()

    async def opened(self) -> BaseException | None:
        """Wait until the pool accepts calls.

        Returns:
            The error of `open` if it has failed: Ray would print an error that is raised if nobody collects it.
        """
        await self._is_opening.wait()
        assert self._opening
        await asyncio.wait([self._opening])
        return self._opening.exception()

    async def loading(self) -> Loading:
        """Count the replicas that have a place in the cluster, and those that are in service."""
        replicas = [replica for group in self._groups.values() for replica in group.replicas.values()]
        placed = sum(replica.name in self._placed for replica in replicas)
        return Loading(placed, sum(replica.state == "serving" for replica in replicas), len(replicas))

    async def report_placed(self, name: str) -> None:
        """Record that the process of a replica runs: its resources are reserved."""
        self._placed.add(name)

    async def describe(self) -> PoolDescription | None:
        """Return settings and models; None while the first replicas are still loading."""
        if not self._is_open:
            return None
        groups = {name: group.models for name, group in self._groups.items()}
        models = {name: self._models[name] for names in groups.values() for name in names}
        return PoolDescription(self._config, models, groups)

    async def assign(self, group: str, images: int) -> Assignment:
        """Wait for a free request slot and assign it to one call; the class says why a slot always becomes free.

        Args:
            group: Name of the group whose models score the images.
            images: Number of images in the call, or of pairs that it compares.
        """
        if self._failure is not None:
            raise self._failure_error()
        queued = QueuedRequest(images, self._clock(), asyncio.get_running_loop().create_future())
        self._groups[group].queue.append(queued)
        self._groups[group].assign_queued(self._clock())
        return await queued.answer

    async def release(self, request_id: int) -> None:
        """Free the slot of a call that has ended; ids of a lost replica are unknown and ignored."""
        for group in self._groups.values():
            group.release(request_id, self._clock())

    async def is_ongoing(self, request_id: int) -> bool:
        """Test whether a call still occupies a slot of a replica that is in service or draining."""
        return any(
            request_id in replica.ongoing for group in self._groups.values() for replica in group.replicas.values()
        )

    async def report_lost(self, name: str, start_id: str, kill: bool = False) -> None:
        """Take a replica out of service until it answers again.

        Args:
            name: Name of the replica.
            start_id: The start that was lost; stale and repeated reports change nothing.
            kill: True restarts a replica that still runs, but has lost the process of a reward.
        """
        for group in self._groups.values():
            replica = group.replicas.get(name)
            if replica and replica.start_id == start_id and replica.state in ("serving", "draining"):
                self._mark_lost(group, replica, "was reported lost", kill=kill)

    async def tick(self) -> None:
        """Drain replicas on draining nodes, rescale, start and stop replicas, and check those with late calls."""
        draining = set(await asyncio.to_thread(self._replicas.draining_nodes))
        now = self._clock()
        for group in self._groups.values():
            for replica in group.drain(draining):
                logger.warning(
                    "reward replica %s drains because its node %s is draining", replica.name, replica.node_id
                )
            group.rescale(now)
            for replica in [
                replica for replica in group.replicas.values() if replica.state == "draining" and not replica.ongoing
            ]:
                self._remove(group, replica)
            for _ in range(group.missing(now)):
                self._spawn(self._load_more(group, self._start(group)))
            for replica in list(group.replicas.values()):
                self._check_if_late(group, replica, now)
            group.assign_queued(self._clock())

    def _start(self, group: ReplicaGroup) -> ReplicaState:
        return group.add(self._replicas.start(group.name, group.next_name), self._clock())

    async def _load_first(self, replica: ReplicaState) -> None:
        try:
            await self._load(replica)
        except RayTaskError as error:
            raise error.cause from None
        except RayActorError as error:
            raise RunFailedError(f"reward replica {replica.name} died while it loaded its models: {error}") from None

    async def _load_more(self, group: ReplicaGroup, replica: ReplicaState) -> None:
        logger.info("reward replica %s starts, %d in service", replica.name, len(group.in_service))
        try:
            await self._load(replica)
        except RayError as error:
            # Either it was stopped while it waited for a node, or it failed to load on a node unlike the others.
            if replica.name in group.replicas:
                logger.warning(
                    "reward replica %s failed to start; the pool continues without it: %s", replica.name, error
                )
                self._replicas.stop(replica.handle)
                group.remove_failed(replica, self._clock())
            return
        group.assign_queued(self._clock())

    async def _load(self, replica: ReplicaState) -> None:
        description: ReplicaDescription = await replica.handle.describe.remote()
        self._models |= description.models
        if replica.state == "starting":
            replica.last_used = self._clock()
            replica.serve(description.start_id, description.node_id)

    def _check_if_late(self, group: ReplicaGroup, replica: ReplicaState, now: float) -> None:
        patience = min(CHECK_AFTER_S, self._config.timeout_s)
        late = any(now - request.assigned_at >= patience for request in replica.ongoing.values())
        if late and not replica.ping_pending:
            replica.ping_pending = True
            self._spawn(self._check_health(group, replica))

    async def _check_health(self, group: ReplicaGroup, replica: ReplicaState) -> None:
        """Ping a replica: mark it lost if it died, kill it if it hangs, otherwise drop its stale calls."""
        asked, start_id, timeout_s = self._clock(), replica.start_id, self._config.timeout_s
        health: ReplicaHealth | None = None
        reason, kill = "", False
        try:
            health = await asyncio.wait_for(replica.handle.ping.remote(), PING_TIMEOUT_S)
        except TimeoutError:
            reason, kill = f"did not answer a ping within {PING_TIMEOUT_S:g} s", True
        except RayError as error:
            reason = f"died ({type(error).__name__})"
        finally:
            replica.ping_pending = False
        if replica.start_id != start_id or replica.state not in ("serving", "draining"):
            return
        if health and health.start_id != start_id:
            reason = "was restarted"
        elif health and health.request_id is not None and health.state_s >= timeout_s:
            reason, kill = f"(pid {health.pid}) has worked on one call for {health.state_s:.1f} s", True
        if reason:
            self._mark_lost(group, replica, reason, kill)
        elif health:
            replica.drop_stale(health, asked)
            group.assign_queued(self._clock())

    def _mark_lost(self, group: ReplicaGroup, replica: ReplicaState, reason: str, kill: bool) -> None:
        """Take a replica out of service; its calls fail at their clients, which replay them."""
        logger.warning("reward replica %s %s", replica.name, reason)
        replica.ongoing.clear()
        if replica.state == "draining":
            self._remove(group, replica)
            return
        replica.state = "lost"
        if kill:
            self._replicas.restart(replica.handle)
        self._spawn(self._recover(group, replica, killed=kill))

    async def _recover(self, group: ReplicaGroup, replica: ReplicaState, *, killed: bool) -> None:
        """Return a lost replica to service once it answers; Ray restarts it, on another node if its own is gone."""
        while replica.state == "lost" and replica.name in group.replicas:
            try:
                health: ReplicaHealth = await replica.handle.ping.remote()
            except RayError:
                await asyncio.sleep(RETRY_S)
                continue
            # The process that is being killed may still answer for a moment.
            if killed and health.start_id == replica.start_id:
                await asyncio.sleep(RETRY_S)
            elif replica.state == "lost":
                replica.serve(health.start_id, health.node_id)
                group.assign_queued(self._clock())

    def _remove(self, group: ReplicaGroup, replica: ReplicaState) -> None:
        logger.info("reward replica %s is stopped, %d in service", replica.name, len(group.in_service))
        del group.replicas[replica.name]
        self._replicas.stop(replica.handle)

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self.tick()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: "asyncio.Task[None]") -> None:
        """Record the error of a failed task, so that it is not silent: all queued and later calls fail with it."""
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            logger.error("the router of the reward pool failed", exc_info=self._failure)
            for group in self._groups.values():
                while group.queue:
                    group.queue.popleft().answer.set_exception(self._failure_error())

    def _failure_error(self) -> RunFailedError:
        return RunFailedError(f"the router of the reward pool failed: {self._failure!r}")

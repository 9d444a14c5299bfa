"""The router without Ray: stand-ins for replicas, and a clock that is set by hand."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from srpo_ray.config.count import CountRange
from srpo_ray.config.rewards import PoolConfig
from srpo_ray.launch.capacity import fitting_replicas
from srpo_ray.rewards.pool.messages import Assignment, ModelInfo, ReplicaDescription, ReplicaHealth
from srpo_ray.rewards.pool.replica_group import OVERTAKEN_S, RETRY_START_S
from srpo_ray.rewards.pool.router import CHECK_AFTER_S, RewardRouter

GROUP = "pool"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeReplica:
    """A process that loads when it may, and that answers pings as a test says."""

    def __init__(self, name: str, group: str) -> None:
        self.name = name
        self.models = {f"model of {group}": ModelInfo(4, image_gradient=True)}
        self.starts = 1
        self.node = f"node-{name}"
        self.loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ticket: int | None = None
        self.state_s = 0.0
        self.dead = False
        self.describe = SimpleNamespace(remote=self._describe)
        self.ping = SimpleNamespace(remote=self._ping)

    @property
    def start_id(self) -> str:
        return f"{self.name}#{self.starts}"

    async def _describe(self) -> ReplicaDescription:
        await self.loaded
        return ReplicaDescription(self.start_id, self.node, self.models)

    async def _ping(self) -> ReplicaHealth:
        if self.dead:
            raise RayActorError
        return ReplicaHealth(self.start_id, self.node, 1, self.ticket, self.state_s)


class FakeReplicas:
    """What is running, and what was stopped or killed; `instant` replicas load as soon as they start."""

    def __init__(self) -> None:
        self.running: dict[str, FakeReplica] = {}
        self.restarted: list[str] = []
        self.draining: set[str] = set()
        self.instant = True

    def start(self, group: str, name: str) -> FakeReplica:
        replica = FakeReplica(name, group)
        if self.instant:
            replica.loaded.set_result(None)
        self.running[name] = replica
        return replica

    def stop(self, handle: FakeReplica) -> None:
        del self.running[handle.name]

    def restart(self, handle: FakeReplica) -> None:
        self.restarted.append(handle.name)
        handle.starts += 1
        handle.ticket = None

    def draining_nodes(self) -> set[str]:
        return self.draining


class Desk:
    """A router with its stand-ins."""

    def __init__(self, *groups: str, **config: Any) -> None:
        self.clock = Clock()
        self.replicas = FakeReplicas()
        names = {group: (f"model of {group}",) for group in groups or (GROUP,)}
        self.router = RewardRouter(PoolConfig(**config), names, self.replicas, self.clock)

    async def open(self) -> "Desk":
        await self.router.open()
        return self

    async def assign(self, images: int = 1, group: str = GROUP) -> Assignment:
        return await asyncio.wait_for(self.router.assign(group, images), 1)

    async def later(self, images: int = 1, group: str = GROUP) -> "asyncio.Task[Assignment]":
        """A call that waits for a place."""
        task = asyncio.create_task(self.router.assign(group, images))
        await settle()
        return task

    async def tick(self, at: float | None = None) -> None:
        self.clock.now = self.clock.now if at is None else at
        await self.router.tick()
        await settle()

    @property
    def names(self) -> str:
        """Last letters of the running replicas' names."""
        return "".join(sorted(name[-1] for name in self.replicas.running))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def scenario(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test that is a coroutine, run on an event loop of its own."""

    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


async def queue(desk: Desk, calls: int) -> list[Awaitable[Assignment]]:
    return [await desk.later() for _ in range(calls)]


@scenario
async def test_replica_with_fewest_images_is_chosen() -> None:
    desk = await Desk(num_replicas=2).open()
    busy = await desk.assign(images=16)

    others = [(await desk.assign(images=4)).replica for _ in range(4)]

    assert others == ["pool/1"] * 4
    await desk.router.release(busy.ticket)
    assert (await desk.assign()).replica == "pool/0"


@scenario
async def test_first_of_idle_replicas_is_used_so_that_the_last_can_go() -> None:
    desk = await Desk(num_replicas=3).open()

    for _ in range(4):
        assignment = await desk.assign()
        assert assignment.replica == "pool/0"
        await desk.router.release(assignment.ticket)


@scenario
async def test_call_beyond_the_limit_waits_until_a_replica_ends_one_and_is_served_in_turn() -> None:
    desk = await Desk(num_replicas=2, max_ongoing_requests=2).open()
    placed = [await desk.assign() for _ in range(4)]
    first, second = await desk.later(), await desk.later()
    assert not first.done()

    desk.clock.now = 7
    await desk.router.release(placed[1].ticket)
    await settle()

    assert not second.done()
    assert first.result().replica == placed[1].replica
    assert first.result().waited_s == 7
    assert sorted(assignment.replica for assignment in placed) == ["pool/0", "pool/0", "pool/1", "pool/1"]


@scenario
async def test_client_with_more_calls_than_places_needs_no_answer_collected() -> None:
    desk = await Desk(max_ongoing_requests=1).open()
    sent: list[int] = []

    async def replica_works() -> None:
        for ended in range(50):
            while len(sent) <= ended:
                await settle()
            await desk.router.release(sent[ended])

    working = asyncio.create_task(replica_works())
    for _ in range(50):
        sent += [(await desk.assign()).ticket]
    await working


@scenario
async def test_assignment_tells_queue_depth_and_replicas_in_service() -> None:
    desk = await Desk(num_replicas=2, max_ongoing_requests=2).open()

    depths = [(await desk.assign()).queue_depth for _ in range(4)]
    waiting = await desk.later()
    await desk.later()
    await desk.router.release(1)
    await settle()

    # Two are at work at once, then one waits behind each, then one is at work again and one more waits.
    assert depths == [0, 0, 0, 1]
    assert waiting.result().queue_depth == 2
    assert waiting.result().in_service == 2


@scenario
async def test_groups_have_replicas_and_queues_of_their_own() -> None:
    desk = await Desk("pool/a", "pool/b", num_replicas=2, max_ongoing_requests=1).open()
    for _ in range(2):
        assert (await desk.assign(group="pool/a")).replica.startswith("pool/a/")
    waiting = await desk.later(group="pool/a")

    assert (await desk.assign(group="pool/b")).replica == "pool/b/0"
    assert not waiting.done()


@scenario
async def test_release_of_an_unknown_ticket_changes_nothing() -> None:
    desk = await Desk(max_ongoing_requests=1).open()
    await desk.assign()

    await desk.router.release(999)

    assert not (await desk.later()).done()


@scenario
async def test_pool_that_is_still_loading_has_no_description() -> None:
    desk = Desk(num_replicas=2)
    desk.replicas.instant = False
    opening = asyncio.create_task(desk.router.open())
    await settle()

    assert await desk.router.describe() is None
    assert await desk.router.loading() == (0, 2)
    for replica in desk.replicas.running.values():
        replica.loaded.set_result(None)
    await opening
    description = await desk.router.describe()
    assert description is not None
    assert description.groups == {GROUP: ("model of pool",)}
    assert list(description.models) == ["model of pool"]


def ranged(**config: Any) -> Desk:
    settings = {"max_ongoing_requests": 8, "upscale_queue_length": 2, "upscale_delay_s": 10, "downscale_delay_s": 60}
    return Desk(num_replicas=CountRange(min=1, max=3), **{**settings, **config})


@scenario
async def test_range_grows_by_one_after_the_stated_time_of_a_long_queue_up_to_its_maximum() -> None:
    desk = await ranged().open()
    await queue(desk, 8)  # one at work, seven behind it

    for at, names in [(0, "0"), (9, "0"), (10, "01"), (19, "01"), (20, "012"), (40, "012")]:
        await desk.tick(at)
        assert desk.names == names, at


@scenario
async def test_queue_at_the_threshold_does_not_grow_the_pool() -> None:
    desk = await ranged().open()
    await queue(desk, 3)  # one at work, two behind it

    for at in range(0, 100, 5):
        await desk.tick(at)

    assert desk.names == "0"


@scenario
async def test_short_burst_is_waited_out() -> None:
    desk = await ranged().open()
    for burst in range(5):
        placed = [await task for task in await queue(desk, 8)]
        await desk.tick(burst * 20)
        await desk.tick(burst * 20 + 9)
        for assignment in placed:
            await desk.router.release(assignment.ticket)
        await desk.tick(burst * 20 + 10)

    assert desk.names == "0"


@scenario
async def test_calls_that_wait_for_a_place_grow_the_pool_too() -> None:
    desk = await ranged(max_ongoing_requests=1).open()
    waiting = await queue(desk, 4)

    await desk.tick(0)
    await desk.tick(10)

    assert desk.names == "01"
    assert (await waiting[1]).replica == "pool/1"


@scenario
async def test_replica_that_is_not_placed_yet_blocks_nobody_and_no_flood_follows_it() -> None:
    desk = await ranged(upscale_queue_length=3.5).open()
    desk.replicas.instant = False
    await queue(desk, 7)  # six wait: too many for one replica, not for two

    for at in range(0, 100, 10):
        await desk.tick(at)

    assert desk.names == "01"
    assert (await desk.assign()).replica == "pool/0"
    desk.replicas.running["pool/1"].loaded.set_result(None)
    await settle()
    assert (await desk.assign()).replica == "pool/1"


@scenario
async def test_idle_replicas_go_one_at_a_time_down_to_the_minimum_and_never_one_with_work() -> None:
    desk = await ranged().open()
    placed = [await task for task in await queue(desk, 8)]
    for at in (0, 10, 20):
        await desk.tick(at)
    busy = [await desk.assign() for _ in range(2)]
    assert {assignment.replica for assignment in busy} == {"pool/1", "pool/2"}
    for assignment in placed:
        await desk.router.release(assignment.ticket)

    await desk.tick(79)
    assert desk.names == "012"
    await desk.tick(200)  # the first is the only one without work
    assert desk.names == "12"
    await desk.tick(201)
    await desk.router.release(busy[0].ticket)
    await desk.tick(260)
    assert desk.names == "12"
    await desk.tick(261)
    assert desk.names == "12"[1:]
    await desk.router.release(busy[1].ticket)
    await desk.tick(1000)
    assert desk.names == "2"


@scenario
async def test_replica_that_never_found_a_node_is_taken_back_when_nothing_waits() -> None:
    desk = await ranged().open()
    desk.replicas.instant = False
    placed = [await task for task in await queue(desk, 8)]
    await desk.tick(0)
    await desk.tick(10)
    assert desk.names == "01"
    for assignment in placed:
        await desk.router.release(assignment.ticket)

    await desk.tick(11)
    await desk.tick(80)

    assert desk.names == "0"


@scenario
async def test_additional_replica_that_cannot_load_is_given_up_and_tried_again_later() -> None:
    desk = await ranged().open()
    desk.replicas.instant = False
    await queue(desk, 8)
    await desk.tick(0)
    await desk.tick(10)
    desk.replicas.running["pool/1"].loaded.set_exception(RayActorError())
    await settle()
    assert desk.names == "0"

    await desk.tick(10 + RETRY_START_S - 1)
    assert desk.names == "0"
    await desk.tick(10 + RETRY_START_S)
    assert desk.names == "02"


@scenario
async def test_fixed_number_never_changes() -> None:
    desk = await Desk(num_replicas=2, upscale_delay_s=0, downscale_delay_s=0).open()
    await queue(desk, 30)
    for at in range(0, 100, 10):
        await desk.tick(at)
    assert desk.names == "01"


@scenario
async def test_replica_on_a_draining_node_gets_no_new_call_and_goes_when_its_own_have_ended() -> None:
    desk = await Desk(num_replicas=2).open()
    running = await desk.assign()
    assert running.replica == "pool/0"

    desk.replicas.draining = {"node-pool/0"}
    await desk.tick(1)

    assert desk.names == "012"
    others = {(await desk.assign(images=100)).replica for _ in range(6)}
    assert others == {"pool/1", "pool/2"}
    await desk.router.release(running.ticket)
    await desk.tick(2)
    assert desk.names == "12"


@scenario
async def test_drained_replica_that_dies_with_its_node_is_not_restarted() -> None:
    desk = await Desk(num_replicas=1).open()
    running = await desk.assign()
    desk.replicas.draining = {"node-pool/0"}
    await desk.tick(1)

    await desk.router.report_lost(running.replica, running.start_id)
    await settle()

    assert desk.names == "1"
    assert (await desk.assign()).replica == "pool/1"


@scenario
async def test_calls_wait_while_the_replacement_of_a_drained_replica_finds_no_room() -> None:
    desk = await Desk(num_replicas=1).open()
    desk.replicas.instant = False
    desk.replicas.draining = {"node-pool/0"}
    await desk.tick(1)

    waiting = await desk.later()
    await desk.tick(500)
    assert not waiting.done()
    desk.replicas.running["pool/1"].loaded.set_result(None)
    await settle()

    assert waiting.result().replica == "pool/1"


@scenario
async def test_lost_replica_is_out_of_service_until_it_answers_as_a_new_process() -> None:
    desk = await Desk(num_replicas=2).open()
    lost = await desk.assign()
    replica = desk.replicas.running["pool/0"]
    replica.dead = True

    await desk.router.report_lost(lost.replica, lost.start_id)
    assert {(await desk.assign()).replica for _ in range(3)} == {"pool/1"}
    replica.dead, replica.starts = False, 2
    await asyncio.sleep(0.3)

    again = await desk.assign()
    assert (again.replica, again.start_id) == ("pool/0", "pool/0#2")
    # A second client that waited on the same process reports it too.
    await desk.router.report_lost(lost.replica, lost.start_id)
    assert await desk.router.holds(again.ticket)


@scenario
async def test_dead_replica_is_found_though_its_clients_wait_for_a_place() -> None:
    desk = await Desk(max_ongoing_requests=1).open()
    lost = await desk.assign()
    waiting = await desk.later()
    replica = desk.replicas.running["pool/0"]
    replica.dead = True

    await desk.tick(CHECK_AFTER_S)
    replica.dead, replica.starts = False, 2
    await asyncio.sleep(0.3)

    assert not await desk.router.holds(lost.ticket)
    assert waiting.result().start_id == "pool/0#2"


@scenario
async def test_replica_that_is_at_one_call_for_too_long_is_killed_and_one_that_is_slow_is_not() -> None:
    desk = await Desk(num_replicas=2, timeout_s=30).open()
    hung, slow = await desk.assign(), await desk.assign()
    for assignment, state_s in [(hung, 30.0), (slow, 29.0)]:
        replica = desk.replicas.running[assignment.replica]
        replica.ticket, replica.state_s = assignment.ticket, state_s

    await desk.tick(30)

    assert desk.replicas.restarted == [hung.replica]
    assert not await desk.router.holds(hung.ticket)
    assert await desk.router.holds(slow.ticket)


@scenario
async def test_place_of_a_client_that_died_before_it_sent_is_freed_by_an_idle_replica() -> None:
    desk = await Desk(max_ongoing_requests=1).open()
    abandoned = await desk.assign()
    waiting = await desk.later()
    replica = desk.replicas.running[abandoned.replica]

    replica.state_s = OVERTAKEN_S - 1
    await desk.tick(OVERTAKEN_S)
    assert not waiting.done()
    replica.state_s = OVERTAKEN_S
    await desk.tick(OVERTAKEN_S + 1)

    assert waiting.done()


@scenario
async def test_place_of_a_client_that_died_is_freed_once_a_later_call_is_at_work() -> None:
    desk = await Desk(max_ongoing_requests=3).open()
    abandoned = await desk.assign()
    desk.clock.now = OVERTAKEN_S
    at_work, queued = await desk.assign(), await desk.assign()
    replica = desk.replicas.running[abandoned.replica]
    replica.ticket, replica.state_s = at_work.ticket, 25.0

    await desk.tick(OVERTAKEN_S + 25)

    held = [await desk.router.holds(assignment.ticket) for assignment in (abandoned, at_work, queued)]
    assert held == [False, True, True]


@scenario
async def test_failure_of_the_router_reaches_those_that_wait_and_those_that_come() -> None:
    desk = await Desk(max_ongoing_requests=1).open()
    await desk.assign()
    waiting = await desk.later()

    async def fail() -> None:
        raise OSError("no answer from the cluster")

    desk.router._spawn(fail())
    await settle()

    for call in (waiting, desk.router.assign(GROUP, 1)):
        with pytest.raises(RuntimeError, match="no answer from the cluster"):
            await call


@pytest.mark.parametrize(
    ("need", "available", "count"),
    [
        ({"CPU": 0.1}, {"CPU": 0.3}, 3),
        ({"CPU": 2, "GPU": 0.5}, {"CPU": 7, "GPU": 1}, 2),
        ({"GPU": 1}, {"CPU": 64}, 0),
        ({}, {}, float("inf")),
    ],
)
def test_fitting_replicas_are_limited_by_the_scarcest_resource(
    need: dict[str, float], available: dict[str, float], count: float
) -> None:
    assert fitting_replicas(need, available) == count

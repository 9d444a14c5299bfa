"""The router without Ray: fake replicas, and a clock that the test sets."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from srpo_ray.config.count import CountRange
from srpo_ray.config.rewards import PoolConfig
from srpo_ray.launch.capacity import fitting_replicas
from srpo_ray.rewards.pool.messages import Assignment, Loading, ModelInfo, ReplicaDescription, ReplicaHealth
from srpo_ray.rewards.pool.replica_group import RETRY_START_S, STALE_AFTER_S
from srpo_ray.rewards.pool.router import CHECK_AFTER_S, RewardRouter

GROUP = "pool"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeReplica:
    """A replica whose loading and whose answers to pings the test controls."""

    def __init__(self, name: str, group: str) -> None:
        self.name = name
        self.models = {f"model of {group}": ModelInfo(4, image_gradient=True)}
        self.starts = 1
        self.node = f"node-{name}"
        self.loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.request_id: int | None = None
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
        return ReplicaHealth(self.start_id, self.node, 1, self.request_id, self.state_s)


class FakeReplicas:
    """Running and restarted replicas; with `instant`, replicas load as soon as they start."""

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
        handle.request_id = None

    def draining_nodes(self) -> set[str]:
        return self.draining


class Harness:
    """A router with fake replicas and a clock that the test sets."""

    def __init__(self, *groups: str, **config: Any) -> None:
        self.clock = Clock()
        self.replicas = FakeReplicas()
        names = {group: (f"model of {group}",) for group in groups or (GROUP,)}
        self.router = RewardRouter(PoolConfig(**config), names, self.replicas, self.clock)

    async def open(self) -> "Harness":
        await self.router.open()
        return self

    async def assign(self, images: int = 1, group: str = GROUP) -> Assignment:
        return await asyncio.wait_for(self.router.assign(group, images), 1)

    async def later(self, images: int = 1, group: str = GROUP) -> "asyncio.Task[Assignment]":
        """A call that waits for a slot."""
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
    """Run a coroutine test on a new event loop."""

    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


async def queue(harness: Harness, calls: int) -> list[Awaitable[Assignment]]:
    return [await harness.later() for _ in range(calls)]


@scenario
async def test_replica_with_fewest_images_is_chosen() -> None:
    harness = await Harness(num_replicas=2).open()
    busy = await harness.assign(images=16)

    others = [(await harness.assign(images=4)).replica for _ in range(4)]

    assert others == ["pool/1"] * 4
    await harness.router.release(busy.request_id)
    assert (await harness.assign()).replica == "pool/0"


@scenario
async def test_first_of_idle_replicas_is_used_so_that_the_last_can_be_removed() -> None:
    harness = await Harness(num_replicas=3).open()

    for _ in range(4):
        assignment = await harness.assign()
        assert assignment.replica == "pool/0"
        await harness.router.release(assignment.request_id)


@scenario
async def test_call_beyond_the_limit_waits_until_a_replica_ends_one_and_is_served_in_turn() -> None:
    harness = await Harness(num_replicas=2, max_ongoing_requests=2).open()
    placed = [await harness.assign() for _ in range(4)]
    first, second = await harness.later(), await harness.later()
    assert not first.done()

    harness.clock.now = 7
    await harness.router.release(placed[1].request_id)
    await settle()

    assert not second.done()
    assert first.result().replica == placed[1].replica
    assert first.result().waited_s == 7
    assert sorted(assignment.replica for assignment in placed) == ["pool/0", "pool/0", "pool/1", "pool/1"]


@scenario
async def test_client_may_send_more_calls_than_slots_before_it_collects_an_answer() -> None:
    harness = await Harness(max_ongoing_requests=1).open()
    sent: list[int] = []

    async def replica_works() -> None:
        for ended in range(50):
            while len(sent) <= ended:
                await settle()
            await harness.router.release(sent[ended])

    working = asyncio.create_task(replica_works())
    for _ in range(50):
        sent += [(await harness.assign()).request_id]
    await working


@scenario
async def test_assignment_reports_queue_depth_and_replicas_in_service() -> None:
    harness = await Harness(num_replicas=2, max_ongoing_requests=2).open()

    depths = [(await harness.assign()).queue_depth for _ in range(4)]
    waiting = await harness.later()
    await harness.later()
    await harness.router.release(1)
    await settle()

    # Two are at work at once, then one waits behind each, then one is at work again and one more waits.
    assert depths == [0, 0, 0, 1]
    assert waiting.result().queue_depth == 2
    assert waiting.result().in_service == 2


@scenario
async def test_groups_have_separate_replicas_and_queues() -> None:
    harness = await Harness("pool/a", "pool/b", num_replicas=2, max_ongoing_requests=1).open()
    for _ in range(2):
        assert (await harness.assign(group="pool/a")).replica.startswith("pool/a/")
    waiting = await harness.later(group="pool/a")

    assert (await harness.assign(group="pool/b")).replica == "pool/b/0"
    assert not waiting.done()


@scenario
async def test_release_of_an_unknown_request_id_changes_nothing() -> None:
    harness = await Harness(max_ongoing_requests=1).open()
    await harness.assign()

    await harness.router.release(999)

    assert not (await harness.later()).done()


@scenario
async def test_pool_that_is_still_loading_has_no_description() -> None:
    harness = Harness(num_replicas=2)
    harness.replicas.instant = False
    opening = asyncio.create_task(harness.router.open())
    await settle()

    assert await harness.router.describe() is None
    assert await harness.router.loading() == Loading(placed=0, loaded=0, replicas=2)
    await harness.router.report_placed(next(iter(harness.replicas.running)))
    assert await harness.router.loading() == Loading(placed=1, loaded=0, replicas=2)
    for replica in harness.replicas.running.values():
        replica.loaded.set_result(None)
    await opening
    description = await harness.router.describe()
    assert description is not None
    assert description.groups == {GROUP: ("model of pool",)}
    assert list(description.models) == ["model of pool"]


@scenario
async def test_pool_whose_model_cannot_be_loaded_tells_everyone_who_waits_for_it() -> None:
    harness = Harness()
    harness.replicas.instant = False
    # A process may find the actor before its driver has started it.
    waiting = [asyncio.create_task(harness.router.opened()) for _ in range(2)]
    await settle()
    await harness.router.start()
    await settle()
    assert not any(each.done() for each in waiting)
    (replica,) = harness.replicas.running.values()
    replica.loaded.set_exception(error := ValueError("no such folder"))
    assert [await asyncio.wait_for(each, 1) for each in waiting] == [error, error]
    assert await harness.router.opened() is error
    assert await harness.router.describe() is None


@scenario
async def test_wait_for_a_started_pool_ends_when_its_models_are_loaded() -> None:
    harness = Harness()
    harness.replicas.instant = False
    await harness.router.start()
    waiting = asyncio.create_task(harness.router.opened())
    await settle()
    assert not waiting.done()
    (replica,) = harness.replicas.running.values()
    replica.loaded.set_result(None)
    assert await asyncio.wait_for(waiting, 1) is None
    assert await harness.router.describe() is not None


def ranged(**config: Any) -> Harness:
    settings = {"max_ongoing_requests": 8, "upscale_queue_length": 2, "upscale_delay_s": 10, "downscale_delay_s": 60}
    return Harness(num_replicas=CountRange(min=1, max=3), **{**settings, **config})


@scenario
async def test_range_grows_by_one_after_the_stated_time_of_a_long_queue_up_to_its_maximum() -> None:
    harness = await ranged().open()
    await queue(harness, 8)  # one at work, seven behind it

    for at, names in [(0, "0"), (9, "0"), (10, "01"), (19, "01"), (20, "012"), (40, "012")]:
        await harness.tick(at)
        assert harness.names == names, at


@scenario
async def test_queue_at_the_threshold_does_not_grow_the_pool() -> None:
    harness = await ranged().open()
    await queue(harness, 3)  # one at work, two behind it

    for at in range(0, 100, 5):
        await harness.tick(at)

    assert harness.names == "0"


@scenario
async def test_short_burst_does_not_grow_the_pool() -> None:
    harness = await ranged().open()
    for burst in range(5):
        placed = [await task for task in await queue(harness, 8)]
        await harness.tick(burst * 20)
        await harness.tick(burst * 20 + 9)
        for assignment in placed:
            await harness.router.release(assignment.request_id)
        await harness.tick(burst * 20 + 10)

    assert harness.names == "0"


@scenario
async def test_calls_that_wait_for_a_slot_grow_the_pool_too() -> None:
    harness = await ranged(max_ongoing_requests=1).open()
    waiting = await queue(harness, 4)

    await harness.tick(0)
    await harness.tick(10)

    assert harness.names == "01"
    assert (await waiting[1]).replica == "pool/1"


@scenario
async def test_replica_without_a_node_blocks_no_call_and_starts_no_further_replicas() -> None:
    harness = await ranged(upscale_queue_length=3.5).open()
    harness.replicas.instant = False
    await queue(harness, 7)  # six wait: too many for one replica, not for two

    for at in range(0, 100, 10):
        await harness.tick(at)

    assert harness.names == "01"
    assert (await harness.assign()).replica == "pool/0"
    harness.replicas.running["pool/1"].loaded.set_result(None)
    await settle()
    assert (await harness.assign()).replica == "pool/1"


@scenario
async def test_idle_replicas_are_removed_one_at_a_time_down_to_the_minimum_and_never_one_with_work() -> None:
    harness = await ranged().open()
    placed = [await task for task in await queue(harness, 8)]
    for at in (0, 10, 20):
        await harness.tick(at)
    busy = [await harness.assign() for _ in range(2)]
    assert {assignment.replica for assignment in busy} == {"pool/1", "pool/2"}
    for assignment in placed:
        await harness.router.release(assignment.request_id)

    await harness.tick(79)
    assert harness.names == "012"
    await harness.tick(200)  # the first is the only one without work
    assert harness.names == "12"
    await harness.tick(201)
    await harness.router.release(busy[0].request_id)
    await harness.tick(260)
    assert harness.names == "12"
    await harness.tick(261)
    assert harness.names == "12"[1:]
    await harness.router.release(busy[1].request_id)
    await harness.tick(1000)
    assert harness.names == "2"


@scenario
async def test_replica_that_never_found_a_node_is_removed_when_the_queue_is_empty() -> None:
    harness = await ranged().open()
    harness.replicas.instant = False
    placed = [await task for task in await queue(harness, 8)]
    await harness.tick(0)
    await harness.tick(10)
    assert harness.names == "01"
    for assignment in placed:
        await harness.router.release(assignment.request_id)

    await harness.tick(11)
    await harness.tick(80)

    assert harness.names == "0"


@scenario
async def test_additional_replica_that_cannot_load_is_removed_and_replaced_later() -> None:
    harness = await ranged().open()
    harness.replicas.instant = False
    await queue(harness, 8)
    await harness.tick(0)
    await harness.tick(10)
    harness.replicas.running["pool/1"].loaded.set_exception(RayActorError())
    await settle()
    assert harness.names == "0"

    await harness.tick(10 + RETRY_START_S - 1)
    assert harness.names == "0"
    await harness.tick(10 + RETRY_START_S)
    assert harness.names == "02"


@scenario
async def test_fixed_number_never_changes() -> None:
    harness = await Harness(num_replicas=2, upscale_delay_s=0, downscale_delay_s=0).open()
    await queue(harness, 30)
    for at in range(0, 100, 10):
        await harness.tick(at)
    assert harness.names == "01"


@scenario
async def test_replica_on_a_draining_node_gets_no_new_call_and_stops_when_its_own_have_ended() -> None:
    harness = await Harness(num_replicas=2).open()
    running = await harness.assign()
    assert running.replica == "pool/0"

    harness.replicas.draining = {"node-pool/0"}
    await harness.tick(1)

    assert harness.names == "012"
    others = {(await harness.assign(images=100)).replica for _ in range(6)}
    assert others == {"pool/1", "pool/2"}
    await harness.router.release(running.request_id)
    await harness.tick(2)
    assert harness.names == "12"


@scenario
async def test_drained_replica_that_dies_with_its_node_is_not_restarted() -> None:
    harness = await Harness(num_replicas=1).open()
    running = await harness.assign()
    harness.replicas.draining = {"node-pool/0"}
    await harness.tick(1)

    await harness.router.report_lost(running.replica, running.start_id)
    await settle()

    assert harness.names == "1"
    assert (await harness.assign()).replica == "pool/1"


@scenario
async def test_calls_wait_while_the_replacement_of_a_drained_replica_finds_no_node() -> None:
    harness = await Harness(num_replicas=1).open()
    harness.replicas.instant = False
    harness.replicas.draining = {"node-pool/0"}
    await harness.tick(1)

    waiting = await harness.later()
    await harness.tick(500)
    assert not waiting.done()
    harness.replicas.running["pool/1"].loaded.set_result(None)
    await settle()

    assert waiting.result().replica == "pool/1"


@scenario
async def test_lost_replica_is_out_of_service_until_it_answers_as_a_new_process() -> None:
    harness = await Harness(num_replicas=2).open()
    lost = await harness.assign()
    replica = harness.replicas.running["pool/0"]
    replica.dead = True

    await harness.router.report_lost(lost.replica, lost.start_id)
    assert {(await harness.assign()).replica for _ in range(3)} == {"pool/1"}
    replica.dead, replica.starts = False, 2
    await asyncio.sleep(0.3)

    again = await harness.assign()
    assert (again.replica, again.start_id) == ("pool/0", "pool/0#2")
    # A second client that waited on the same process reports it too.
    await harness.router.report_lost(lost.replica, lost.start_id)
    assert await harness.router.is_ongoing(again.request_id)


@scenario
async def test_dead_replica_is_found_while_its_clients_wait_for_a_slot() -> None:
    harness = await Harness(max_ongoing_requests=1).open()
    lost = await harness.assign()
    waiting = await harness.later()
    replica = harness.replicas.running["pool/0"]
    replica.dead = True

    await harness.tick(CHECK_AFTER_S)
    replica.dead, replica.starts = False, 2
    await asyncio.sleep(0.3)

    assert not await harness.router.is_ongoing(lost.request_id)
    assert waiting.result().start_id == "pool/0#2"


@scenario
async def test_hung_replica_is_killed_and_a_slow_one_is_not() -> None:
    harness = await Harness(num_replicas=2, timeout_s=30).open()
    hung, slow = await harness.assign(), await harness.assign()
    for assignment, state_s in [(hung, 30.0), (slow, 29.0)]:
        replica = harness.replicas.running[assignment.replica]
        replica.request_id, replica.state_s = assignment.request_id, state_s

    await harness.tick(30)

    assert harness.replicas.restarted == [hung.replica]
    assert not await harness.router.is_ongoing(hung.request_id)
    assert await harness.router.is_ongoing(slow.request_id)


@scenario
async def test_slot_of_a_client_that_died_before_it_sent_is_freed_by_an_idle_replica() -> None:
    harness = await Harness(max_ongoing_requests=1).open()
    abandoned = await harness.assign()
    waiting = await harness.later()
    replica = harness.replicas.running[abandoned.replica]

    replica.state_s = STALE_AFTER_S - 1
    await harness.tick(STALE_AFTER_S)
    assert not waiting.done()
    replica.state_s = STALE_AFTER_S
    await harness.tick(STALE_AFTER_S + 1)

    assert waiting.done()


@scenario
async def test_slot_of_a_client_that_died_is_freed_once_the_replica_works_on_a_later_call() -> None:
    harness = await Harness(max_ongoing_requests=3).open()
    abandoned = await harness.assign()
    harness.clock.now = STALE_AFTER_S
    at_work, queued = await harness.assign(), await harness.assign()
    replica = harness.replicas.running[abandoned.replica]
    replica.request_id, replica.state_s = at_work.request_id, 25.0

    await harness.tick(STALE_AFTER_S + 25)

    held = [await harness.router.is_ongoing(assignment.request_id) for assignment in (abandoned, at_work, queued)]
    assert held == [False, True, True]


@scenario
async def test_failure_of_the_router_fails_queued_and_new_calls() -> None:
    harness = await Harness(max_ongoing_requests=1).open()
    await harness.assign()
    waiting = await harness.later()

    async def fail() -> None:
        raise OSError("no answer from the cluster")

    harness.router._spawn(fail())
    await settle()

    for call in (waiting, harness.router.assign(GROUP, 1)):
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

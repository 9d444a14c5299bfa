from types import SimpleNamespace

import pytest

from srpo_ray.config.reward import PoolConfig
from srpo_ray.rewards.pool.capacity import fitting_replicas
from srpo_ray.rewards.pool.dispatcher import TICKET_LIFE, Assignment, RewardDispatcher


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def open_dispatcher(replicas: str, clock: Clock) -> RewardDispatcher:
    dispatcher = RewardDispatcher(PoolConfig(timeout_s=10), clock)
    dispatcher.open([(name, SimpleNamespace(), f"start-{name}") for name in replicas], {})
    return dispatcher


def assign(dispatcher: RewardDispatcher, pictures: int = 1) -> Assignment:
    assignment = dispatcher.assign(pictures)
    assert assignment is not None
    return assignment


def test_replica_with_fewest_pictures_is_chosen() -> None:
    dispatcher = open_dispatcher("ab", Clock())
    busy = assign(dispatcher, pictures=16)

    others = [assign(dispatcher, pictures=4).replica for _ in range(4)]

    assert others == ["b"] * 4
    dispatcher.release(busy.ticket)
    assert assign(dispatcher).replica == "a"


def test_idle_replicas_take_turns() -> None:
    dispatcher = open_dispatcher("abc", Clock())

    order = []
    for _ in range(6):
        assignment = assign(dispatcher)
        order.append(assignment.replica)
        dispatcher.release(assignment.ticket)

    assert "".join(order) == "abcabc"


def test_ticket_of_a_dead_client_lapses() -> None:
    clock = Clock()
    dispatcher = open_dispatcher("ab", clock)
    assert assign(dispatcher, pictures=100).replica == "a"
    assert [assign(dispatcher, pictures=40).replica for _ in range(2)] == ["b", "b"]

    clock.now = 10 * TICKET_LIFE + 1

    assert {assign(dispatcher).replica, assign(dispatcher).replica} == {"a", "b"}


def test_release_of_an_unknown_ticket_changes_nothing() -> None:
    dispatcher = open_dispatcher("ab", Clock())
    assign(dispatcher)

    dispatcher.release(999)

    assert assign(dispatcher).replica == "b"


def test_pool_that_is_still_loading_has_no_description() -> None:
    assert RewardDispatcher(PoolConfig()).describe() is None


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

"""Pools that still load, as trials and the driver see them."""

import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from srpo_ray.rewards.pool import opening
from srpo_ray.rewards.pool.opening import Opening


class FakeRay:
    """Routers whose answers the test gives: False while a pool loads, True, or an error."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = answers
        self.arrived = True

    def get_actor(self, name: str, namespace: str) -> Any:
        assert namespace == "srpo_ray"
        return SimpleNamespace(opened=SimpleNamespace(remote=lambda: self.answers[name].pop(0)))

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 1.5}

    def wait(self, refs: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        assert timeout == 0
        return (refs, []) if self.arrived else ([], refs)

    def get(self, ref: Any) -> Any:
        return ref


def faked(monkeypatch: pytest.MonkeyPatch, **answers: list[Any]) -> FakeRay:
    fake = FakeRay(**answers)
    monkeypatch.setattr(opening, "ray", fake)
    return fake


def test_opening_is_complete_as_soon_as_every_pool_has_loaded_and_asks_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = faked(monkeypatch, a=[False, True], b=[True])
    pools = Opening(["a", "b"])
    assert not pools.is_complete()
    assert fake.answers == {"a": [True], "b": []}
    assert pools.is_complete()
    assert pools.is_complete()


def test_answer_that_has_not_arrived_is_not_waited_for_and_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = faked(monkeypatch, a=[True])
    fake.arrived = False
    pools = Opening(["a"])
    assert not pools.is_complete()
    assert not pools.is_complete()
    fake.arrived = True
    assert pools.is_complete()


def test_waiting_ends_with_the_error_that_kept_a_pool_from_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    faked(monkeypatch, a=[False, False, ValueError("no file of preference")])
    monkeypatch.setattr(opening, "POLL_S", 0.0)
    with pytest.raises(ValueError, match="no file of preference"):
        Opening(["a"]).wait()


def test_wait_for_a_pool_that_does_not_load_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faked(monkeypatch, a=[True], b=[False, True])
    monkeypatch.setattr(opening, "POLL_S", 0.0)
    monkeypatch.setattr(opening, "REPORT_INTERVAL_S", 0.0)
    Opening(["a", "b"]).wait()
    assert [record.getMessage() for record in caplog.records] == [
        "reward pools have not loaded their models after 0 s: b. Free now: {'CPU': 1.5}"
    ]


def test_opening_without_pools_is_complete_and_a_pickled_one_knows_what_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Opening(()).is_complete()
    faked(monkeypatch, a=[True], b=[False, True])
    pools = Opening(["a", "b"])
    assert not pools.is_complete()
    assert pickle.loads(pickle.dumps(pools)).is_complete()

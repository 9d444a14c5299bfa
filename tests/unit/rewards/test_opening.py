"""Pools that still load, as trials and the driver see them."""

import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from srpo_ray.rewards.pool import opening
from srpo_ray.rewards.pool.opening import Opening


class FakeRay:
    """Routers that answer a question after the given number of looks: with None, or with an error."""

    def __init__(self, **answers: tuple[int, BaseException | None]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.looks: dict[str, int] = {}

    def get_actor(self, name: str, namespace: str) -> Any:
        assert namespace == "srpo_ray"

        def ask() -> str:
            self.asked.append(name)
            self.looks[name] = 0
            return name

        return SimpleNamespace(opened=SimpleNamespace(remote=ask))

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 1.5}

    def wait(self, refs: list[str], timeout: float) -> tuple[list[str], list[str]]:
        assert timeout == 0
        (name,) = refs
        self.looks[name] += 1
        return (refs, []) if self.looks[name] > self.answers[name][0] else ([], refs)

    def get(self, ref: str) -> BaseException | None:
        return self.answers[ref][1]


def faked(monkeypatch: pytest.MonkeyPatch, **answers: tuple[int, BaseException | None]) -> FakeRay:
    fake = FakeRay(**answers)
    monkeypatch.setattr(opening, "ray", fake)
    return fake


def test_opening_is_complete_as_soon_as_every_pool_has_loaded_and_asks_each_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = faked(monkeypatch, a=(2, None), b=(0, None))
    pools = Opening(["a", "b"])
    assert [pools.is_complete() for _ in range(4)] == [False, False, True, True]
    assert fake.asked == ["a", "b"]


def test_waiting_ends_with_the_error_that_kept_a_pool_from_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    faked(monkeypatch, a=(2, ValueError("no file of preference")))
    monkeypatch.setattr(opening, "POLL_S", 0.0)
    with pytest.raises(ValueError, match="no file of preference"):
        Opening(["a"]).wait()


def test_wait_for_a_pool_that_does_not_load_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faked(monkeypatch, a=(0, None), b=(1, None))
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
    fake = faked(monkeypatch, a=(0, None), b=(1, None))
    pools = Opening(["a", "b"])
    assert not pools.is_complete()
    copied = pickle.loads(pickle.dumps(pools))
    assert [copied.is_complete() for _ in range(2)] == [False, True]
    assert fake.asked == ["a", "b", "b"], "the copy may be in another process"

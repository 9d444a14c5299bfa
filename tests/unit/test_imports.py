import gc
import importlib
import threading
from pathlib import Path

import pytest

from srpo_ray.imports import by_one_thread, large_imports, without_collection


def fail_within() -> None:
    with without_collection():
        with without_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ImportError


def test_collection_stops_for_the_block_and_goes_on_after_it_and_after_an_error() -> None:
    assert gc.isenabled()
    with pytest.raises(ImportError):
        fail_within()
    assert gc.isenabled()


def test_imported_objects_are_excluded_from_later_collections_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large_package.py").write_text("objects = [[] for _ in range(10_000)]\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = gc.get_freeze_count()
    with large_imports():
        assert not gc.isenabled()
        importlib.import_module("large_package")
    assert gc.isenabled()
    excluded = gc.get_freeze_count()
    assert excluded >= before + 10_000
    made_later = [[] for _ in range(1_000)]
    with large_imports():
        importlib.import_module("large_package")
    assert len(made_later) == 1_000
    assert gc.get_freeze_count() <= excluded


def test_no_collection_looks_at_imported_objects_when_collections_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "larger_package.py").write_text("objects = [[] for _ in range(10_000)]\n")
    monkeypatch.syspath_prepend(tmp_path)
    seen = list[int]()

    def note(phase: str, _: dict[str, int]) -> None:
        seen.append(sum(len(gc.get_objects(generation)) for generation in range(3)) if phase == "start" else 0)

    gc.collect()
    known = len(gc.get_objects())
    gc.callbacks.append(note)
    try:
        with large_imports():
            importlib.import_module("larger_package")
        made = [[] for _ in range(2_000)]
    finally:
        gc.callbacks.remove(note)
    assert len(made) == 2_000
    assert seen, "no collection has run"
    assert max(seen) < known + 10_000


def test_imports_of_one_thread_wait_for_those_of_another_and_may_be_nested() -> None:
    inside, leave, order = threading.Event(), threading.Event(), list[str]()

    def first() -> None:
        with by_one_thread(), by_one_thread():
            inside.set()
            leave.wait(10)
            order.append("first")

    def second() -> None:
        with by_one_thread():
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    threads[1].join(0.2)
    assert order == []
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "second"]

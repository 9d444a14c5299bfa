import gc
import threading

import pytest

from srpo_ray.imports import by_one_thread, without_collection


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

"""Work that a thread of low priority begins, and that its caller takes over."""

import os
import sys
import time
from contextlib import suppress
from threading import Event, get_ident, get_native_id
from typing import Any

import pytest

from srpo_ray.imports import import_steps
from srpo_ray.launch.background import begun_in_background

LONGEST_S = 60.0


def test_thread_begins_and_its_caller_runs_the_rest_once_and_in_order() -> None:
    ran = list[tuple[int, int]]()
    begun = Event()

    def step(number: int) -> Any:
        def run() -> None:
            if number == 1:
                begun.set()
                # Long enough for the caller to ask for the rest.
                time.sleep(0.3)
            ran.append((number, get_ident()))

        return run

    with begun_in_background([step(number) for number in range(4)]) as finish:
        assert begun.wait(LONGEST_S)
        finish()
        assert [number for number, _ in ran] == [0, 1, 2, 3]
    threads = [thread for _, thread in ran]
    assert threads[0] == threads[1] != get_ident()
    assert threads[2:] == [get_ident(), get_ident()]


@pytest.mark.parametrize("position", [0, 2])
def test_error_of_a_function_is_raised_where_the_caller_takes_over(position: int) -> None:
    steps: list[Any] = [lambda: None] * 2
    steps.insert(position, import_steps("srpo_ray.no_such_module")[0])
    with begun_in_background(steps) as finish, pytest.raises(ModuleNotFoundError, match="no_such_module"):
        finish()


def test_block_that_fails_leaves_functions_that_have_not_begun() -> None:
    begun, ran = Event(), list[int]()

    def first() -> None:
        begun.set()
        time.sleep(0.3)
        ran.append(0)

    with suppress(ZeroDivisionError), begun_in_background([first, lambda: ran.append(1)]):
        assert begun.wait(LONGEST_S)
        1 / 0  # noqa: B018
    assert ran == [0]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
def test_only_the_thread_has_a_lower_priority() -> None:
    found = list[int]()
    before = os.getpriority(os.PRIO_PROCESS, get_native_id())
    done = Event()

    def note() -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, get_native_id()))
        done.set()

    with begun_in_background([note]):
        assert done.wait(LONGEST_S)
    assert found == [5]
    assert os.getpriority(os.PRIO_PROCESS, get_native_id()) == before

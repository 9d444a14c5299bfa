"""Ctrl-C after a phase of Ray Tune, which leaves a handler of its own."""

import os
import signal
import threading

import pytest
from ray.tune.tune import _setup_signal_catching as setup_signal_catching

from srpo_ray.search.phase import own_interrupt


def test_interrupt_after_a_phase_reaches_the_command() -> None:
    with own_interrupt():
        stopped = setup_signal_catching()
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped.is_set(), "Ray Tune's handler stops the phase"
        setup_signal_catching()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_phase_of_another_thread_changes_no_handler() -> None:
    before = signal.getsignal(signal.SIGINT)

    def phase() -> None:
        with own_interrupt():
            pass

    thread = threading.Thread(target=phase)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before

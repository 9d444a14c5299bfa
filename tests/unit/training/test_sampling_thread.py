"""Second thread that samples the base model's images: its end, and its errors."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.evaluation.evaluator import Evaluator
from srpo_ray.training.baseline_evaluation import sampling_thread
from tests.unit.training.test_baseline_cache import CPU, config_of, evaluator_of

POLICY: Any = object()


def evaluator_that_samples(sample: Callable[[], None], root: Path) -> Evaluator:
    """An evaluator without a model, whose images are of zeros."""

    class WithoutModel(Evaluator):
        def sample(self, policy: object, items: Sequence[int]) -> Tensor:
            sample()
            return torch.zeros(len(items), 3, 8, 8)

    return evaluator_of(config_of(root), kind=WithoutModel)


def test_thread_ends_after_its_batch_if_the_block_fails(tmp_path: Path) -> None:
    begun, failed = threading.Event(), threading.Event()
    batches: list[str] = []

    def sample() -> None:
        batches.append(threading.current_thread().name)
        begun.set()
        failed.wait(60)

    def interrupted(evaluator: Evaluator) -> None:
        with sampling_thread(config_of(tmp_path), evaluator, CPU, POLICY):
            assert begun.wait(60)
            # The end of the block waits for the thread, so a third one lets its batch go on.
            threading.Timer(0.5, failed.set).start()
            raise KeyboardInterrupt

    evaluator = evaluator_that_samples(sample, tmp_path)
    assert len(evaluator.batched_items) > 1
    with pytest.raises(KeyboardInterrupt):
        interrupted(evaluator)
    assert len(batches) == 1


def test_error_of_the_thread_is_raised_at_the_end_of_the_block(tmp_path: Path) -> None:
    begun = threading.Event()

    def sample() -> None:
        begun.set()
        raise RuntimeError("no memory")

    evaluator = evaluator_that_samples(sample, tmp_path)
    with (
        pytest.raises(RuntimeError, match="no memory"),
        sampling_thread(config_of(tmp_path), evaluator, CPU, POLICY),
    ):
        assert begun.wait(60)


def test_thread_samples_all_batches_beside_a_block_that_samples_none(tmp_path: Path) -> None:
    done = threading.Semaphore(0)
    evaluator = evaluator_that_samples(done.release, tmp_path)
    with sampling_thread(config_of(tmp_path), evaluator, CPU, POLICY):
        assert all(done.acquire(timeout=60) for _ in evaluator.batched_items)

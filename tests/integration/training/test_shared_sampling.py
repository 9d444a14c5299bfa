"""Base model's evaluation by several real processes at the same time, one that dies, and runs with two workers."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Barrier, Timer, get_ident
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from srpo_ray.config import RunConfig, apply
from srpo_ray.data.cache.shards import ShardStore
from srpo_ray.evaluation.evaluator import Evaluation, Evaluator
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.activity import read_activity
from srpo_ray.runs.collectives import gather
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.turns import EXCLUSIVE, WAIT_S, lock
from srpo_ray.training.baseline_evaluation import baseline_evaluation
from srpo_ray.training.evaluation import encode_evaluated, sample_base_model
from srpo_ray.training.setup import build_trainer
from srpo_ray.training.shared_sampling import SharedImages
from tests.helpers.training.ranks import run_ranks
from tests.integration.training.test_baseline_evaluation import (
    CPU,
    assert_same_bits,
    computed,
    evaluator_of,
    model_of,
    rewards_of,
    sampled_ahead,
    stored,
)

SAMPLE = Evaluator.sample
LONGEST_S = 300
"""Seconds that a process may take; the first one imports what the others copy."""


def four_batches(config: RunConfig) -> RunConfig:
    small = {"evaluation.samples_per_prompt": 2, "evaluation.batch_size": 2, "training.num_threads": 1}
    return apply(config, {**small, "rewards.in_process": True})


def evaluate_logged(config: RunConfig, log: str, before: Callable[[int, str], object]) -> None:
    """Evaluate the base model; each batch sampled is a line of `log`, written after `before(number of the batch)`."""
    batches = 0

    def sample(evaluator: Evaluator, policy: FlowPolicy, items: Sequence[int]) -> Tensor:
        nonlocal batches
        before(batches, log)
        batches += 1
        images = SAMPLE(evaluator, policy, items)
        with Path(log).open("a") as file:
            file.write(" ".join(map(str, items)) + "\n")
        return images

    torch.set_num_threads(1)
    with patch.object(Evaluator, "sample", sample):
        baseline_evaluation(config, evaluator_of(config), CPU, lambda: model_of(config), rewards_of(config))


def started(config: RunConfig, log: Path, before: Callable[[int, str], object]) -> BaseProcess:
    process = multiprocessing.get_context("forkserver").Process(target=evaluate_logged, args=(config, str(log), before))
    process.start()
    return process


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def meet(batch: int, log: str) -> None:
    """Wait before the first batch until two processes hold one."""
    if batch == 0:
        Path(log).with_suffix(".here").touch()
        until(lambda: len(list(Path(log).parent.glob("*.here"))) == 2)


def hang_at_the_second(batch: int, log: str) -> None:
    if batch == 1:
        Path(log).with_suffix(".here").touch()
        time.sleep(600)


def nothing(_batch: int, _log: str) -> None:
    pass


@pytest.fixture
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
def test_two_processes_sample_each_batch_once_to_the_bit_of_one(tiny_run: RunConfig, tmp_path: Path) -> None:
    config = four_batches(tiny_run)
    encode_evaluated(config)
    logs = [tmp_path / "first.txt", tmp_path / "second.txt"]
    processes = [started(config, log, meet) for log in logs]
    for process in processes:
        process.join(LONGEST_S)
        assert process.exitcode == 0
    assert all(lines(log) for log in logs)
    assert sorted(line for log in logs for line in lines(log)) == ["0 1", "2 3", "4 5", "6 7"]
    assert_same_bits(stored(config), computed(config))
    assert not list((tmp_path / "runs").glob("cache/baselines/*/images"))


@pytest.mark.usefixtures("_one_thread")
def test_batch_of_a_killed_process_is_sampled_by_one_that_waits_for_it(tiny_run: RunConfig, tmp_path: Path) -> None:
    config = four_batches(tiny_run)
    encode_evaluated(config)
    killed, alive = tmp_path / "killed.txt", tmp_path / "alive.txt"
    process = started(config, killed, hang_at_the_second)
    until(killed.with_suffix(".here").exists)
    other = started(config, alive, nothing)
    until(lambda: len(lines(alive)) == 2)
    time.sleep(0.5)
    assert other.is_alive()
    assert process.pid
    begun = time.monotonic()
    os.kill(process.pid, signal.SIGKILL)
    other.join(LONGEST_S)
    assert time.monotonic() - begun < WAIT_S / 2
    assert other.exitcode == 0
    assert (lines(killed), lines(alive)) == (["0 1"], ["4 5", "6 7", "2 3"])
    assert_same_bits(stored(config), computed(config))
    assert not list((tmp_path / "runs").glob("cache/baselines/*/images"))


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize(("alone", "cores", "threads"), [(True, 2, 2), (True, 1, 1), (False, 2, 1)])
def test_second_thread_samples_on_a_free_core_to_the_bit_of_one(
    alone: bool, cores: int, threads: int, tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = four_batches(tiny_run)
    encode_evaluated(config)
    sampled = dict[str, tuple[int, int]]()
    first_batches = Barrier(threads)

    def sample(evaluator: Evaluator, policy: FlowPolicy, items: Sequence[int]) -> Tensor:
        if get_ident() not in {thread for thread, _ in sampled.values()}:
            sampled[" ".join(map(str, items))] = get_ident(), id(policy)
            first_batches.wait(LONGEST_S)
        assert sampled.setdefault(" ".join(map(str, items)), (get_ident(), id(policy))) == (get_ident(), id(policy))
        return SAMPLE(evaluator, policy, items)

    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    with patch.object(Evaluator, "sample", sample):
        sample_base_model(config, lambda: False, alone=alone)
    assert sorted(sampled) == ["0 1", "2 3", "4 5", "6 7"]
    # Each thread has its own policy, as a policy has a state.
    assert len(set(sampled.values())) == len({policy for _, policy in sampled.values()}) == threads
    assert_same_bits(sampled_ahead(config), computed(config))


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("cores", [1, 2])
def test_batch_in_progress_is_dropped_when_the_rewards_are_ready(
    cores: int, tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = four_batches(tiny_run)
    encode_evaluated(config)
    begun, ended = list[str](), list[str]()

    def sample(evaluator: Evaluator, policy: FlowPolicy, items: Sequence[int]) -> Tensor:
        begun.append(str(items))
        images = SAMPLE(evaluator, policy, items)
        ended.append(str(items))
        return images

    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    with patch.object(Evaluator, "sample", sample):
        sample_base_model(config, lambda: bool(begun), alone=True)
    assert begun
    assert not ended
    assert_same_bits(sampled_ahead(config), computed(config))


def images_of(items: Sequence[int]) -> Tensor:
    return torch.stack([torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(item)) for item in items])


def share_on_ranks(root: str) -> dict[str, list[list[int]]]:
    """Batches that each of two ranks samples before and while it reads, in four starts of one evaluation."""
    rank, folder = dist.get_rank(), Path(root)
    batches, sampled = [[rank, 2 + rank], [4 + rank, 6 + rank], [8 + rank]], list[int]()
    store, evaluator = ShardStore(folder / "images"), SimpleNamespace(batched_items=batches)

    def sample(items: Sequence[int]) -> Tensor:
        dist.barrier()
        sampled.append(batches.index(list(items)))
        return images_of(items)

    def start() -> list[list[int]]:
        sampled.clear()
        evaluation: Any = evaluator
        images = SharedImages(folder, evaluation, sample, lambda: False)
        with images.in_use():
            images.sample_until(lambda: False)
            before = len(sampled)
            with images.turn_to_score():
                found = list(images.batches(torch.device("cpu")))
        assert [items for items, _ in found] == batches
        assert all(torch.equal(batch, images_of(items)) for items, batch in found)
        each = gather([sampled[:before], sampled[before:]])
        assert each[0] == each[1]
        return each[0]

    results = {"first": start(), "again": start()}
    dist.barrier()
    other = ExitStack()
    if rank == 0:
        path = store._path("00000-0")
        content = path.read_bytes()
        path.unlink()
        assert lock(folder / "images" / "00000.lock", EXCLUSIVE, other)
        Timer(1, lambda: (path.write_bytes(content), other.close())).start()
    results["waited"] = start()
    dist.barrier()
    if rank == 1:
        store._path("00001-1").unlink()
        store._path("00002-1").write_bytes(b"")
    dist.barrier()
    results["damaged"] = start()
    return results


def test_two_workers_sample_and_wait_as_one(tmp_path: Path) -> None:
    results = run_ranks(share_on_ranks, 2, tmp_path, str(tmp_path / "evaluation"))
    assert results["first"] == [[0, 1, 2], []]
    assert results["again"] == [[], []]
    assert results["waited"] == [[], []]
    # Both sample what one of them lacks: before they read if its file is missing, and when they read if it is damaged.
    assert results["damaged"] == [[1], [2]]


def evaluate_sharded(config: RunConfig, folder: str) -> dict[str, Any]:
    """Scores of the base model by a trainer with sharded weights: shared, from the cache, and evaluated alone."""
    rewards = LocalRewards.load(config.rewards.models, config.evaluation.held_out)
    trainer = build_trainer(config, RunFolder(folder), rewards, "cpu", None)
    sampled, activities = list[int](), list[Any]()

    def sample(evaluator: Evaluator, policy: FlowPolicy, items: Sequence[int]) -> Tensor:
        sampled.extend(items)
        # No worker may be ahead of worker 0, which reports.
        dist.barrier()
        activities.append(read_activity(RunFolder(folder)))
        return SAMPLE(evaluator, policy, items)

    found: dict[str, Evaluation] = {}
    with patch.object(Evaluator, "sample", sample):
        for name in ("shared", "cached"):
            found[name] = trainer._evaluate_base(trainer.evaluator)
    found["alone"] = trainer._evaluate(trainer.evaluator)
    results: dict[str, Any] = {name: {"scores": each.scores, "images": each.images} for name, each in found.items()}
    results["activities"] = [*activities, read_activity(RunFolder(folder))]
    return results | {"sampled": sorted(item for share in gather(sampled) for item in share)}


def test_sharded_weights_sample_stored_images_to_the_bit_of_an_evaluation_alone(
    tiny_run: RunConfig, tmp_path: Path
) -> None:
    config = apply(four_batches(tiny_run), {"training.num_workers": 2, "training.zero_stage": 3})
    results = run_ranks(evaluate_sharded, 2, tmp_path, config, str(tmp_path / "run"))
    assert results["sampled"] == list(range(8))
    # Two workers with two batches of two images each; the scores of a batch arrive when the next one is sampled.
    assert results["activities"] == [("evaluation", 0, 8), ("evaluation", 0, 8), None]
    for name in ("shared", "cached"):
        assert results[name]["scores"] == results["alone"]["scores"]
        assert list(results[name]["images"]) == list(results["alone"]["images"])
        assert all(torch.equal(image, results["alone"]["images"][at]) for at, image in results[name]["images"].items())

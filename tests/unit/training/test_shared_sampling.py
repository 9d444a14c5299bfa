"""Images that several runs sample together: each batch once, with the bits of images sampled alone."""

import errno
import fcntl
import resource
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from srpo_ray.runs import turns
from srpo_ray.training import shared_sampling
from srpo_ray.training.shared_sampling import SharedImages

CPU = torch.device("cpu")
ITEMS = [[0, 1], [2, 3], [4, 5], [6, 7], [8]]


def images_of(items: Sequence[int]) -> Tensor:
    return torch.stack([torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(item)) for item in items])


def never() -> bool:
    """Rewards that are not ready, so that all images are sampled first."""
    return False


class Run:
    """One run that needs the images of `ITEMS`."""

    def __init__(self, folder: Path, before: Callable[[], object] = lambda: None) -> None:
        self.sampled: list[list[int]] = []
        self.before = before
        self.complete = folder / "complete"
        evaluator: Any = SimpleNamespace(batched_items=ITEMS)
        self.images = SharedImages(folder, evaluator, self.sample, self.complete.exists)

    def sample(self, items: Sequence[int]) -> Tensor:
        self.sampled.append(list(items))
        self.before()
        return images_of(items)

    def sample_all(self) -> None:
        self.images.sample_until(never)

    def read(self) -> None:
        """Read all images, and compare them with images sampled alone."""
        found = list(self.images.batches(CPU))
        assert sorted(items for items, _ in found) == ITEMS
        assert all(torch.equal(images, images_of(items)) for items, images in found)

    def finish(self) -> None:
        self.images.sample_until(never)
        with self.images.turn_to_score():
            self.read()
            self.complete.touch()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_sampling, "_POLL_S", 0.01)


def test_runs_at_the_same_time_sample_each_batch_once_and_read_the_same_bits(tmp_path: Path) -> None:
    both_sample = threading.Barrier(2)

    def meet() -> None:
        if len(first.sampled) <= 1 and len(second.sampled) <= 1:
            both_sample.wait(20)

    first, second = Run(tmp_path, meet), Run(tmp_path, meet)
    with ThreadPoolExecutor(2) as runs:
        list(runs.map(lambda run: run.images.sample_until(never), (first, second)))
    assert first.sampled
    assert second.sampled
    assert sorted(first.sampled + second.sampled) == ITEMS
    for run in (first, second):
        before = len(run.sampled)
        run.read()
        assert len(run.sampled) == before


def test_run_waits_for_the_batches_of_others_and_samples_none_of_them(tmp_path: Path) -> None:
    late = Run(tmp_path)
    waiting = threading.Thread(target=late.sample_all)

    def start_late() -> None:
        if len(first.sampled) == len(ITEMS):
            waiting.start()
            time.sleep(0.2)
            assert waiting.is_alive()

    first = Run(tmp_path, start_late)
    first.images.sample_until(never)
    waiting.join(20)
    assert not waiting.is_alive()
    assert late.sampled == []


def test_batch_that_another_run_stores_before_its_lock_is_free_is_not_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, run = Run(tmp_path), Run(tmp_path)

    def lock_after_the_other(path: Path, kind: int, held: ExitStack) -> bool:
        if path.name == "00001.lock":
            other.images._sample_and_store(1)
        return turns.lock(path, kind, held)

    monkeypatch.setattr(shared_sampling, "lock", lock_after_the_other)
    run.images.sample_until(never)
    assert run.sampled == [items for items in ITEMS if items != ITEMS[1]]


def test_batch_of_a_run_that_fails_is_sampled_by_the_next_start_with_the_rest_kept(tmp_path: Path) -> None:
    def fail_at_the_third() -> None:
        if len(failing.sampled) == 3:
            raise KeyboardInterrupt

    failing, resumed = Run(tmp_path, fail_at_the_third), Run(tmp_path)
    with pytest.raises(KeyboardInterrupt), failing.images.in_use():
        failing.images.sample_until(never)
    with resumed.images.in_use():
        resumed.finish()
    assert resumed.sampled == ITEMS[2:]
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("damage", [lambda content: content[:-1] + bytes([content[-1] ^ 1]), lambda _content: b""])
def test_damaged_images_are_removed_and_sampled_again(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    Run(tmp_path).images.sample_until(never)
    file = tmp_path / "images" / "00002-0.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    run = Run(tmp_path)
    run.images.sample_until(never)
    with pytest.warns(UserWarning, match=r"00002-0.*damaged"):
        run.read()
    assert run.sampled == [ITEMS[2]]


def test_run_samples_only_until_the_rewards_are_ready(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.images.sample_until(lambda: len(run.sampled) == 2)
    assert run.sampled == ITEMS[:2]
    run.read()
    assert run.sampled == ITEMS


def test_run_that_waits_for_its_turn_samples_for_the_one_that_scores(tmp_path: Path) -> None:
    scored: list[int] = []
    scoring, waiting = Run(tmp_path), Run(tmp_path)

    def wait_for_turn() -> None:
        with waiting.images.turn_to_score():
            pass

    with scoring.images.turn_to_score():
        batches = scoring.images.batches(CPU)
        scored += next(batches)[0]
        helper = threading.Thread(target=wait_for_turn)
        helper.start()
        deadline = time.monotonic() + 20
        while waiting.sampled != ITEMS[1:]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for items, images in batches:
            assert torch.equal(images, images_of(items))
            scored += items
        scoring.complete.touch()
    helper.join(20)
    assert scored == [item for items in ITEMS for item in items]
    assert scoring.sampled == ITEMS[:1]
    assert waiting.sampled == ITEMS[1:]


def test_run_scores_what_is_stored_while_another_samples_the_rest(tmp_path: Path) -> None:
    run, other = Run(tmp_path), Run(tmp_path)
    other.images._sample_and_store(3)
    with ExitStack() as sampled_by_other:
        assert turns.lock(tmp_path / "images" / "00000.lock", turns.EXCLUSIVE, sampled_by_other)
        batches = run.images.batches(CPU)
        assert [next(batches)[0] for _ in range(4)] == [ITEMS[3], ITEMS[1], ITEMS[2], ITEMS[4]]
        other.images._sample_and_store(0)
    assert [items for items, _ in batches] == [ITEMS[0]]
    assert run.sampled == [ITEMS[1], ITEMS[2], ITEMS[4]]


def test_last_batches_that_another_run_stores_between_two_looks_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, run = Run(tmp_path), Run(tmp_path)
    look = run.images._stored
    looks: list[set[int]] = []

    def look_before_the_other_stores() -> set[int]:
        looks.append(found := look())
        if len(looks) == 1:
            other.images.sample_until(never)
        return found

    monkeypatch.setattr(run.images, "_stored", look_before_the_other_stores)
    run.read()
    assert looks[0] == set()
    assert run.sampled == []


def test_complete_evaluation_is_not_sampled_again(tmp_path: Path) -> None:
    first, late = Run(tmp_path), Run(tmp_path)
    for run in (first, late):
        with run.images.in_use():
            run.images.sample_until(never)
            run.complete.touch()
        assert not (tmp_path / "images").exists()
    assert late.sampled == []


def test_images_are_removed_by_the_last_run_that_uses_them(tmp_path: Path) -> None:
    first, other_words = Run(tmp_path), Run(tmp_path)
    with other_words.images.in_use():
        with first.images.in_use():
            first.finish()
        first.images.remove_if_unused()
        other_words.read()
        assert other_words.sampled == []
    assert not (tmp_path / "images").exists()


def test_images_left_by_a_run_that_died_after_its_evaluation_are_removed(tmp_path: Path) -> None:
    Run(tmp_path).finish()
    assert (tmp_path / "images").exists()
    Run(tmp_path).images.remove_if_unused()
    assert not (tmp_path / "images").exists()


def test_images_of_an_incomplete_evaluation_are_kept(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.images.in_use():
        run.images.sample_until(never)
    Run(tmp_path).images.remove_if_unused()
    run.read()
    assert run.sampled == ITEMS


class Clock:
    """Clock of a run that waits: each of its looks at the others takes 200 seconds, in which they may do something."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.looks = 0.0, 0
        self.meanwhile: Callable[[], object] = lambda: None
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self._pass)

    def _pass(self, _seconds: float) -> None:
        self.now += 200
        self.looks += 1
        self.meanwhile()


def test_run_samples_a_batch_itself_if_its_owner_makes_no_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, clock = Run(tmp_path), Clock(monkeypatch)
    with ExitStack() as owner:
        assert turns.lock(tmp_path / "images" / "00001.lock", turns.EXCLUSIVE, owner)
        run.images.sample_until(never)
        assert clock.looks == 2
        assert run.sampled == [items for items in ITEMS if items != ITEMS[1]]
        run.read()
    assert run.sampled[-1] == ITEMS[1]


def test_run_waits_for_batches_of_others_as_long_as_they_store_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, run, clock = Run(tmp_path), Run(tmp_path), Clock(monkeypatch)
    clock.meanwhile = lambda: other.images._sample_and_store(len(other.sampled))
    with ExitStack() as owner:
        for index in range(len(ITEMS)):
            assert turns.lock(tmp_path / "images" / f"{index:05d}.lock", turns.EXCLUSIVE, owner)
        run.images.sample_until(never)
    assert clock.now > 2 * turns.WAIT_S
    assert other.sampled == ITEMS
    assert run.sampled == []


def test_run_waits_for_its_turn_as_long_as_another_scores_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause, clock = time.sleep, Clock(monkeypatch)
    other, run = Run(tmp_path), Run(tmp_path)
    other.images.sample_until(never)
    scored = other.images.batches(CPU)

    def score() -> None:
        # Times of files are no finer than a tick of the kernel.
        pause(0.02)
        next(scored, None)

    clock.meanwhile = score
    with other.images.turn_to_score(), run.images.turn_to_score():
        # The last two looks have seen no progress.
        assert clock.looks == len(ITEMS) + 2


def test_run_waits_for_its_turn_as_long_as_others_store_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, run, clock = Run(tmp_path), Run(tmp_path), Clock(monkeypatch)
    clock.meanwhile = lambda: len(other.sampled) == len(ITEMS) or other.images._sample_and_store(len(other.sampled))
    with ExitStack() as owner, other.images.turn_to_score():
        for index in range(len(ITEMS)):
            assert turns.lock(tmp_path / "images" / f"{index:05d}.lock", turns.EXCLUSIVE, owner)
        with run.images.turn_to_score():
            # The last two looks have seen no progress.
            assert clock.looks == len(ITEMS) + 2
    assert run.sampled == []


def test_storage_without_locks_is_used_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    second = Run(tmp_path)
    first = Run(tmp_path, lambda: second.images.sample_until(never) if not second.sampled else None)
    started = time.monotonic()
    with first.images.in_use():
        first.finish()
    assert time.monotonic() - started < turns.WAIT_S / 2
    assert second.sampled == ITEMS
    assert first.sampled == ITEMS[:1]
    assert not (tmp_path / "images").exists()
    # A run whose images another one has removed samples them again.
    second.read()
    assert second.sampled == [*ITEMS, *ITEMS]


def test_run_samples_alone_on_storage_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "file"
    folder.touch()
    run = Run(folder)
    with run.images.in_use():
        with pytest.warns(UserWarning, match="images alone"):
            run.images.sample_until(never)
        assert run.sampled == []
        with run.images.turn_to_score():
            run.read()
    assert run.sampled == ITEMS


def test_run_samples_alone_on_storage_that_is_full(tmp_path: Path) -> None:
    run, limits = Run(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    with run.images.in_use():
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
        try:
            with pytest.warns(UserWarning, match="images alone"):
                run.images.sample_until(never)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert run.sampled == ITEMS[:1]
        run.read()
    assert run.sampled == [*ITEMS[:1], *ITEMS]
    # A full disk needs their space.
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_stored_images_have_the_memory_format_of_the_sampled_ones(layout: torch.memory_format, tmp_path: Path) -> None:
    evaluator: Any = SimpleNamespace(batched_items=ITEMS)
    images = SharedImages(
        tmp_path, evaluator, lambda items: images_of(items).contiguous(memory_format=layout), lambda: False
    )
    images.sample_until(never)
    for items, found in images.batches(CPU):
        assert found.is_contiguous(memory_format=layout)
        assert torch.equal(found, images_of(items))

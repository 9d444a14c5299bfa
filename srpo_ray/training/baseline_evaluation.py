"""Evaluation of the base model from the cache, or with other processes that need the same one at the same time."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import copy
from functools import cache

import torch

from srpo_ray.config import RunConfig
from srpo_ray.config.baseline_settings import is_cached
from srpo_ray.evaluation.evaluator import Evaluation, Evaluator, combine
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.rewards.base import RewardScorer
from srpo_ray.runs.collectives import from_worker_0, gather, rank_and_world_size
from srpo_ray.training.baseline_cache import BaselineCache


def baseline_evaluation(
    config: RunConfig,
    evaluator: Evaluator,
    device: torch.device,
    base: Callable[[], AbstractContextManager[FlowPolicy]],
    rewards: RewardScorer,
) -> Evaluation:
    """Read the evaluation of the base model from the cache, or compute it and write it there.

    Processes that need the same evaluation at the same time share its sampling, and one of them requests all scores,
    while it and the others sample further images. All workers must call.

    Args:
        config: The run.
        evaluator: Evaluator of the run, which determines prompts, noise and batches.
        device: Device of the model.
        base: Provider of the base model's policy. It is entered once on all workers when this run samples its first
            batch, or never.
        rewards: Reward scorer.

    Returns:
        The evaluation: a stored one has the same bits as a computed one.
    """
    with ExitStack() as models:

        @cache
        def policy() -> FlowPolicy:
            return models.enter_context(base())

        if not is_cached(config):
            return _scored(config, evaluator, evaluator.batches(policy()), rewards)
        found = _shared_evaluation(config, evaluator, device, policy, rewards)
    others = evaluator.other_words
    return Evaluation({name: found.scores[name] for name in found.scores if name not in others}, found.images)


def _shared_evaluation(
    config: RunConfig,
    evaluator: Evaluator,
    device: torch.device,
    policy: Callable[[], FlowPolicy],
    rewards: RewardScorer,
) -> Evaluation:
    """Read the evaluation from the cache, or sample its images with other processes and let one of them score all."""
    stored = BaselineCache(config, evaluator, device)
    images = stored.images(evaluator, policy)
    found = from_worker_0(stored.read)
    if found is not None:
        images.remove_if_unused()
        return found
    with images.in_use(), images.turn_to_score():
        found = from_worker_0(stored.read)
        if found is None:
            found = _scored(config, evaluator, images.batches(device), rewards)
            if rank_and_world_size()[0] == 0 and not stored.write(found):
                images.abandon()
    return found


def sample_ahead(
    config: RunConfig,
    evaluator: Evaluator,
    device: torch.device,
    load: Callable[[], FlowPolicy],
    ready: Callable[[], bool],
    *,
    num_threads: int = 1,
) -> None:
    """Sample images for `baseline_evaluation` until the rewards can be used, or all images are there.

    Args:
        config: A run whose evaluation is cached, with one worker.
        evaluator: Evaluator of the run.
        device: Device of the model.
        load: Function that returns the base model's policy. It is called for the first batch, if one is missing.
        ready: Test whether the rewards can be used.
        num_threads: Threads that sample, each a batch at a time: 1 or 2.
    """
    stored = BaselineCache(config, evaluator, device)
    if stored.is_complete() or ready():
        return
    policy = cache(load)
    images = stored.images(evaluator, policy)
    with images.in_use(), sampling_thread(config, evaluator, device, policy()) if num_threads > 1 else nullcontext():
        images.sample_until(ready)


@contextmanager
def sampling_thread(
    config: RunConfig, evaluator: Evaluator, device: torch.device, policy: FlowPolicy
) -> Iterator[None]:
    """Sample batches of the evaluation in a second thread during the block, as another process would.

    Each batch is sampled by one thread alone, with torch's number of threads, so it has the same bits. The end of the
    block waits for the batch that the thread samples.

    Args:
        config: A run whose evaluation is cached, with one worker.
        evaluator: Evaluator of the run.
        device: Device of the model.
        policy: The base model's policy. The thread uses a copy that shares its weights.
    """
    # A policy is set to the size of the images while it samples.
    own = copy(policy)
    images = BaselineCache(config, evaluator, device).images(evaluator, lambda: own)
    ended = threading.Event()
    with ThreadPoolExecutor(max_workers=1) as executor:
        sampling = executor.submit(images.sample_until, ended.is_set)
        try:
            yield
        finally:
            ended.set()
        sampling.result()


def _scored(
    config: RunConfig, evaluator: Evaluator, batches: Iterable[tuple[list[int], torch.Tensor]], rewards: RewardScorer
) -> Evaluation:
    """Score the images of all workers, for the control words of other runs too."""
    share = evaluator.score(batches, rewards, config.rewards.factors, for_all=True)
    return combine(gather(share), len(evaluator.prompts))

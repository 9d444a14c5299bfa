"""Evaluators of a run, and images of the base model's evaluation ahead of the runs that share it. No engine."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from srpo_ray.config import RunConfig
from srpo_ray.config.algorithms.control_words import ControlWords
from srpo_ray.config.evaluation import EvaluationConfig
from srpo_ray.data.cache.shards import ROWS
from srpo_ray.data.cache.text_features import TextCache
from srpo_ray.data.prompt_rows import PromptRows
from srpo_ray.data.texts import read_texts
from srpo_ray.evaluation.evaluator import Evaluator
from srpo_ray.models.attention import set_attention
from srpo_ray.models.conditioning import ConditioningSource
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.models.trainable import load_tuned, make_policy, model_dtype
from srpo_ray.rewards.base import RewardScorer
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.pool.client import RewardClient
from srpo_ray.training.baseline_evaluation import sample_ahead


def make_evaluator(
    config: RunConfig,
    evaluation: EvaluationConfig,
    rows: PromptRows,
    *,
    features: Callable[[Sequence[str]], ConditioningSource],
    words: Mapping[str, ControlWords] | None = None,
    rank: int = 0,
    world_size: int = 1,
    progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> Evaluator:
    """Build an evaluator of a run.

    Args:
        config: The run.
        evaluation: Its section `evaluation`, or that of its test.
        rows: Prompts to evaluate.
        features: Function from texts to their text features.
        words: Metric name -> control words of other runs, for which the base model's images are scored too.
        rank: Index of the share of the images that this process evaluates.
        world_size: Number of shares.
        progress: Receives the number of images of this share that are scored, and of all its images.
    """
    model = config.model_at(evaluation)
    return Evaluator(
        evaluation,
        rows.prompts,
        features(rows.conditioning),
        size=model.size,
        sigmas=sigma_grid(model)(evaluation.num_steps, config.rollout.shift),
        truth=evaluation.prompts.startswith("small_world:"),
        trained_words=config.trained_words,
        other_words=words,
        conditioned_on=rows.conditioning,
        own_words=rows.words,
        text_free=config.text_free,
        rank=rank,
        world_size=world_size,
        progress=progress,
    )


def connect_rewards(config: RunConfig, pool: str | None, device: str) -> RewardScorer:
    """Connect to the reward pool of a run, or load its reward models into this process.

    Args:
        config: The run.
        pool: Name of the pool; None scores in this process.
        device: Device of this process.
    """
    factors, official = config.rewards.factors, config.evaluation.preprocessing == "official"
    if pool is not None:
        return RewardClient.connect(pool, factors, official=official)
    return LocalRewards.load(
        config.rewards.models,
        config.evaluation.held_out,
        factors=factors,
        micro_batch_size=config.rewards.pool.micro_batch_size,
        official=official,
        device=device,
    )


def encode_evaluated(config: RunConfig) -> None:
    """Encode the validation prompts of a run that the cache lacks, on the CPU.

    Args:
        config: The run.
    """
    cache, texts = TextCache.of(config), read_texts(config)
    missing = cache.missing([*texts.validation.conditioning, *texts.guidance])
    if missing:
        encode = cache.load_encoder("cpu")
        for start in range(0, len(missing), ROWS):
            encode(missing[start : start + ROWS])


class RewardsReady(Exception):  # noqa: N818
    """The rewards can be used, so the sampling ahead ends within a batch."""


def sample_base_model(config: RunConfig, ready: Callable[[], bool], *, alone: bool = False) -> None:
    """Sample images of the base model's evaluation into the cache until the rewards are ready, or all are there.

    Processes that need the same evaluation share its sampling. The images have the bits that a run with one worker on
    the CPU would sample. `encode_evaluated` must have been called. Batches that are not complete when the rewards are
    ready are dropped, since the first update waits for this function.

    Args:
        config: A run with one worker on the CPU.
        ready: Test whether the rewards can be used, asked before each call of the transformer; by one thread at a time.
        alone: True if no other run computes on this machine. Then a second thread samples too, if a core is free.
    """
    device = torch.device("cpu")
    if config.training.num_threads:
        torch.set_num_threads(config.training.num_threads)
    texts, cache = read_texts(config), TextCache.of(config)
    evaluator = make_evaluator(config, config.evaluation, texts.validation, features=cache.features)
    asking = threading.Lock()

    def is_ready() -> bool:
        with asking:
            return ready()

    def load() -> FlowPolicy:
        transformer = load_tuned(config, model_dtype(config), device.type, None)
        set_attention(transformer, config.model.attention)

        def network(*arguments: Any, **named: Any) -> tuple[Tensor]:
            if is_ready():
                raise RewardsReady
            return transformer(*arguments, **named)

        policy = make_policy(config, network, transformer.config, device.type)
        if texts.guidance:
            policy.empty_prompt = cache.features(texts.guidance)[[0]]
        return policy

    free = alone and (os.cpu_count() or 1) > torch.get_num_threads()
    with suppress(RewardsReady):
        sample_ahead(config, evaluator, device, load, is_ready, num_threads=2 if free else 1)

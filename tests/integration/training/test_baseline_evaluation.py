"""Evaluation of the base model with real models: the same bits for all runs that share it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from srpo_ray.config import RunConfig, apply
from srpo_ray.data.cache.text_features import TextCache
from srpo_ray.data.texts import read_texts
from srpo_ray.evaluation.evaluator import Evaluation, Evaluator, combine
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.models.trainable import load_tuned, make_policy, model_dtype
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.training.baseline_cache import other_words
from srpo_ray.training.baseline_evaluation import baseline_evaluation
from srpo_ray.training.evaluation import encode_evaluated, sample_base_model

CPU = torch.device("cpu")


def evaluator_of(config: RunConfig) -> Evaluator:
    prompts, cache = read_texts(config).evaluated, TextCache.of(config)
    if missing := cache.missing(prompts):
        cache.load_encoder("cpu")(missing)
    return Evaluator(
        config.evaluation,
        prompts,
        cache.features(prompts),
        size=config.model_at(config.evaluation).size,
        sigmas=sigma_grid(config.model_at(config.evaluation))(config.evaluation.num_steps, config.rollout.shift),
        truth=True,
        trained_words=config.trained_words,
        other_words=other_words(config),
    )


@contextmanager
def model_of(config: RunConfig) -> Iterator[FlowPolicy]:
    transformer: Any = load_tuned(config, model_dtype(config), "cpu", None)
    yield make_policy(config, transformer, transformer.config, "cpu")


def rewards_of(config: RunConfig) -> LocalRewards:
    return LocalRewards.load(config.rewards.models, config.evaluation.held_out)


def computed(config: RunConfig) -> Evaluation:
    evaluator = evaluator_of(config)
    with model_of(config) as policy:
        share = evaluator.evaluate(policy, rewards_of(config), config.rewards.factors)
    return combine([share], len(evaluator.prompts))


def assert_same_bits(found: Evaluation, expected: Evaluation) -> None:
    assert found.scores == expected.scores
    assert found.metrics == expected.metrics
    assert list(found.images) == list(expected.images)
    assert all(torch.equal(found.images[prompt], image) for prompt, image in expected.images.items())


def stored(config: RunConfig) -> Evaluation:
    def refuse() -> Any:
        raise AssertionError("the evaluation is in the cache")

    no_rewards: Any = None
    return baseline_evaluation(config, evaluator_of(config), CPU, refuse, no_rewards)


def sampled_ahead(config: RunConfig) -> Evaluation:
    """Evaluation whose images are all sampled before the rewards can be used."""

    def refuse() -> Any:
        raise AssertionError("all images are in the cache")

    encode_evaluated(config)
    sample_base_model(config, lambda: False)
    return baseline_evaluation(config, evaluator_of(config), CPU, refuse, rewards_of(config))


def test_one_evaluation_ahead_of_two_trials_serves_both_to_the_bit(tiny_run: RunConfig) -> None:
    first = apply(tiny_run, {"evaluation.samples_per_prompt": 2, "rewards.in_process": True})
    second = apply(first, {"algorithm.control_words": "vivid", "model.lora.rank": 4, "seed": 7})
    assert_same_bits(sampled_ahead(first), computed(first))
    for trial in (first, second):
        assert_same_bits(stored(trial), computed(trial))


def test_stored_evaluation_serves_full_fine_tuning_and_adapters_to_the_bit(tiny_run: RunConfig) -> None:
    changes = {"evaluation.samples_per_prompt": 2, "model.gradient_checkpointing": True}
    full = apply(tiny_run, changes)
    lora = apply(full, {"model.lora.rank": 4, "model.gradient_checkpointing": False, "seed": 7})
    vivid = apply(full, {"algorithm.control_words": "vivid"})
    expected = computed(full)
    assert_same_bits(computed(lora), expected)
    assert_same_bits(
        baseline_evaluation(full, evaluator_of(full), CPU, lambda: model_of(full), rewards_of(full)), expected
    )
    assert_same_bits(stored(lora), expected)
    assert_same_bits(stored(vivid), computed(vivid))

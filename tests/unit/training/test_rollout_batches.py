"""Rollouts of several micro-batches in one batch: the same updates as micro-batch by micro-batch, in fewer calls."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from srpo_ray.algorithms import build_algorithm
from srpo_ray.algorithms.batching import join_batches
from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.config.algorithms.control_words import ControlWords
from srpo_ray.config.algorithms.registry import TYPES
from srpo_ray.planning.advice import candidates
from srpo_ray.planning.cost import velocity_cost
from srpo_ray.planning.devices import trainer_memory
from srpo_ray.planning.hardware import Hardware
from srpo_ray.planning.larger_rollouts import larger_rollouts
from srpo_ray.planning.plan import make_plan
from srpo_ray.planning.workload import worker_traffic, worker_work
from srpo_ray.training.rollouts import KeptRollouts
from tests.conftest import ROOT, SMALL_WORLD
from tests.helpers.algorithms.stand_ins import PromptRewards, make_batch
from tests.helpers.algorithms.variants import MIXED, SCORED
from tests.helpers.training.algorithm_checks import CountingPolicy
from tests.unit.training.test_rollouts import CountedPolicy, config_with, make_trainer

PLAIN: dict[str, tuple[str, ...]] = {
    "srpo": ("algorithm.query=plain", "algorithm.branches=[denoise]", "algorithm.noise=per_sample"),
    **{
        kind: ("algorithm.group_size=4", "algorithm.images_per_pass=2")
        for kind, section in TYPES.items()
        if "group_size" in section.model_fields
    },
}
"""Settings whose rewards need no control words, and where a sample's images are in two micro-batches."""


class Policy(CountingPolicy):
    device, dtype = torch.device("cpu"), torch.float64


def settings(kind: str, size: int | None) -> RunConfig:
    """A run of six prompts in micro-batches of one."""
    own = (f"algorithm.type={kind}", *PLAIN.get(kind, ()), "rollout.num_steps=5")
    config = load_run([SMALL_WORLD], [*own, "training.batch_size=6", "training.micro_batch_size=1"])
    return apply(config, {"rollout.batch_size": size})


def collected(config: RunConfig, policy: Any) -> tuple[list[Tensor], list[tuple[int, ...]]]:
    """Losses of the first update of one worker, back-propagated, and the samples of each micro-batch."""
    trainer = make_trainer(config, KeptRollouts(1), policy)
    trainer.algorithm = build_algorithm(config, policy, cast(Any, PromptRewards()))
    losses, samples = [], []
    for batch, share, found in trainer.collect(0):
        samples.append(batch.draws.samples)
        for loss in trainer.algorithm.losses(batch, found):
            part = loss().loss * share
            part.backward()
            losses.append(part.detach())
    return losses, samples


@pytest.mark.parametrize("kind", SCORED)
def test_every_algorithm_trains_the_same_on_rollouts_that_are_sampled_together(kind: str) -> None:
    alone, together = Policy(), Policy()
    expected, samples = collected(settings(kind, None), alone)
    images = settings(kind, None).sampled_per_pass
    found, again = collected(settings(kind, 4 * images), together)
    assert again == samples
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together.slope.grad, alone.slope.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together.offset.grad, alone.offset.grad, rtol=1e-12, atol=1e-12)
    assert set(alone.samples[False]) == {images}
    # Six micro-batches, or twelve of divided groups: fours, and what is left of them.
    divided = "algorithm.group_size=4" in PLAIN.get(kind, ())
    assert set(together.samples[False]) == ({4 * images} if divided else {4 * images, 2 * images})
    assert sum(together.samples[False]) == sum(alone.samples[False])
    assert together.samples[True] == alone.samples[True]


def test_mixed_batches_sample_their_rollouts_together_and_keep_their_real_images() -> None:
    first, second = make_batch(samples=(0, 1)), make_batch(samples=(2, 3))
    tokens = torch.arange(24.0, dtype=torch.float64).reshape(4, 1, 2, 3)
    parts = [
        type(batch)(batch.prompts, batch.conditioning, batch.draws, tokens[start : start + 2], image_rows=(row,))
        for batch, start, row in ((first, 0, 1), (second, 2, 0))
    ]
    joined = join_batches(parts)
    assert joined.image_rows == (1, 2)
    assert joined.prompts == ("prompt 0", "prompt 1", "prompt 2", "prompt 3")
    config = config_with("algorithm.noise=per_sample")
    policy: Any = CountedPolicy()
    algorithm = build_algorithm(config, policy, cast(Any, None))
    whole = algorithm.collect(joined)
    for part, rows in zip(parts, (slice(0, 2), slice(2, 4)), strict=True):
        alone, found = algorithm.collect(part), whole[rows]
        assert torch.equal(found.clean, alone.clean)
        assert torch.equal(found.noise, alone.noise)
    assert torch.equal(whole.clean[1:3], tokens[1:3, 0])


def test_joined_batch_has_the_words_and_keys_of_its_rows() -> None:
    words = [ControlWords(positive=(word,), negative=("flat",)) for word in ("vivid", "bright")]
    parts = [
        replace(make_batch(samples=(sample,)), words=(words[sample],), keys=(f"key {sample}",)) for sample in (0, 1)
    ]
    joined = join_batches(parts)
    assert (joined.words, joined.keys) == (tuple(words), ("key 0", "key 1"))
    plain = join_batches([make_batch(samples=(sample,)) for sample in (0, 1)])
    assert (plain.words, plain.keys) == (None, None)


def test_reused_rollouts_of_a_joined_batch_are_those_of_their_samples() -> None:
    rows = {}
    for size in (None, 4):
        config = apply(config_with("rollout.reuse=3", "algorithm.noise=per_sample"), {"rollout.batch_size": size})
        kept = KeptRollouts(3)
        trainer = make_trainer(config, kept, CountedPolicy())
        trainer.update(0)
        rows[size] = kept.state(1)
    assert rows[4].keys() == rows[None].keys()
    assert all(torch.equal(rows[4][name], tokens) for name, tokens in rows[None].items())


def test_plan_of_joined_rollouts_has_their_activations_and_as_many_operations(tiny_run: RunConfig) -> None:
    config = apply(tiny_run, {"training.batch_size": 8, "training.micro_batch_size": 1, "training.num_gpus": 1})
    joined = apply(config, {"rollout.batch_size": 4})

    def activations(run: RunConfig) -> int:
        (phase,) = [each for each in trainer_memory(run, (32,)).phases if each.name == "rollout"]
        return next(part.bytes for part in phase.parts if part.name == "activations")

    assert activations(config) == velocity_cost(config.model, 1, 1.0, gradient=False, gpu=True).peak
    assert activations(joined) == velocity_cost(config.model, 4, 1.0, gradient=False, gpu=True).peak
    # A worker has no more images than its share of the update.
    assert activations(apply(config, {"rollout.batch_size": 16})) == activations(
        apply(config, {"rollout.batch_size": 8})
    )
    (before, *_), (after, *_) = worker_work(config, (32,)), worker_work(joined, (32,))
    assert after.flops == before.flops
    assert after.host_s == pytest.approx(before.host_s / 4)


def test_advice_tries_rollouts_of_single_micro_batches_where_they_are_joined(tiny_run: RunConfig) -> None:
    config = apply(tiny_run, {"training.batch_size": 8, "training.micro_batch_size": 1, "rollout.batch_size": 4})
    change = {"rollout.batch_size": None}
    assert change in [changes for changes, _ in candidates(config)]
    assert change not in [changes for changes, _ in candidates(apply(config, change))]


def test_plan_names_the_largest_batch_of_rollouts_that_fits(tiny_run: RunConfig) -> None:
    own = {"training.batch_size": 32, "training.micro_batch_size": 1, "training.num_gpus": 1}
    config = apply(tiny_run, own)

    def advice(changes: dict[str, object], memory_gib: float = 100) -> str | None:
        run = apply(config, changes)
        return larger_rollouts(run, make_plan(run, Hardware(memory_gib=memory_gib)))

    found = advice({})
    assert found is not None
    assert found.startswith("rollout.batch_size=8 fits too")
    assert "4 instead of 32 batches" in found
    assert advice({"rollout.batch_size": 8}) is None
    assert advice({"training.micro_batch_size": 8}) is None
    assert advice({"training.num_gpus": 0}) is None
    assert advice({}, memory_gib=0.1) is None


def test_plan_names_no_larger_batch_where_each_image_is_a_call_of_its_own() -> None:
    recipe = load_run(
        [ROOT / "configs" / "recipes" / f"{name}.yaml" for name in ("qwen_image21_lora_48gb", "rewards_own_node")]
    )
    plan = make_plan(recipe, Hardware(gpu="L40S"))
    assert plan.fits
    assert larger_rollouts(recipe, plan) is None


def test_plan_gathers_layer_by_layer_once_for_all_joined_rollouts() -> None:
    recipe = load_run(
        [ROOT / "configs" / "recipes" / f"{name}.yaml" for name in ("flux_full_8x80gb", "rewards_same_gpu")]
    )
    config = apply(recipe, {"training.micro_batch_size": 1, "training.gather_for_rollout": False})

    def gathered(size: int | None) -> int:
        traffic = worker_traffic(apply(config, {"rollout.batch_size": size}))
        return next(part.bytes for part in traffic if part.name == "weights gathered for rollouts")

    assert gathered(2) == pytest.approx(gathered(None) / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout.batch_size": 3}, r"multiple of the 2 images .* 2 prompts .* got 3; .* training.micro_batch_size"),
        ({"rollout.batch_size": 1}, r"multiple of the 2 images"),
        ({"rollout.batch_size": 3, **MIXED}, None),
        ({"rollout.batch_size": 3, "rollout.source": "base_model"}, None),
        ({"rollout.batch_size": 4, "data.images": "small_world:realistic"}, r"every sample is a real image"),
    ],
)
def test_batch_that_micro_batches_do_not_fill_is_refused(
    tiny_run: RunConfig, changes: dict[str, object], message: str | None
) -> None:
    config = apply(tiny_run, {"training.micro_batch_size": 2})
    if message is None:
        assert apply(config, changes).rollout.batch_size == 3
        return
    with pytest.raises(ValueError, match=message):
        apply(config, changes)


def test_base_model_samples_as_many_images_at_a_time_as_the_config_says(tiny_run: RunConfig) -> None:
    config = apply(tiny_run, {"training.micro_batch_size": 2, "rollout.source": "base_model"})
    assert config.base_batch_size == 2
    assert apply(config, {"rollout.batch_size": 7}).base_batch_size == 7

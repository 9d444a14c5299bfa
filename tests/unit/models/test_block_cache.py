"""First-block cache of rollouts: against diffusers' own, against no cache, by counted blocks, and its refusals."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from torch import Tensor, nn

from srpo_ray.algorithms import build_algorithm
from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.data.rollouts import RolloutCache
from srpo_ray.evaluation.evaluator import Evaluator
from srpo_ray.flow import shifted_sigmas
from srpo_ray.models.attention import compile_blocks
from srpo_ray.models.block_cache import BlockCache
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.families import FLUX
from srpo_ray.models.loading import load_transformer, load_vae
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.models.registry import policy_class
from srpo_ray.planning.devices import trainer_memory
from srpo_ray.planning.schedule import rollout_notes
from srpo_ray.training import trainer as trainer_module
from srpo_ray.training.rollouts import KeptRollouts
from tests.conftest import SMALL_WORLD
from tests.helpers.algorithms.stand_ins import PromptRewards, make_batch
from tests.helpers.algorithms.variants import SCORED
from tests.helpers.models.tiny_sd3 import save_tiny_sd3
from tests.helpers.training.algorithm_checks import CountingPolicy
from tests.unit.training.test_rollouts import CountedPolicy, config_with, make_trainer

STEPS = 6
SIGMAS = shifted_sigmas(STEPS, 3.0)
HUGE = 1e9


def policy_of(path: str) -> FlowPolicy:
    transformer, vae = load_transformer(path, torch.float32).eval(), load_vae(path, torch.float32)
    policy = policy_class(path)(transformer, vae, transformer.config, resolution=64, dtype=torch.float32)
    policy.empty_prompt = features(transformer.config, 1, seed=9)
    return policy


def features(config: Any, size: int, seed: int = 0) -> Conditioning:
    """Random text features."""
    source = torch.Generator().manual_seed(seed)
    text = torch.randn(size, 16, config["joint_attention_dim"], generator=source)
    return Conditioning(text, torch.randn(size, config["pooled_projection_dim"], generator=source))


@pytest.fixture(scope="module")
def flux() -> FlowPolicy:
    return policy_of("small_world")


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> FlowPolicy:
    return policy_of(str(save_tiny_sd3(tmp_path_factory.mktemp("sd3"))))


@pytest.fixture(params=["flux", "sd3"])
def policy(request: pytest.FixtureRequest) -> FlowPolicy:
    return request.getfixturevalue(request.param)


def network(policy: FlowPolicy) -> Any:
    assert isinstance(policy.network, nn.Module)
    return policy.network


def blocks_of(policy: FlowPolicy) -> list[nn.Module]:
    return [block for name in policy.block_lists for block in getattr(network(policy), name)]


def roll(policy: FlowPolicy, threshold: float | None, rows: slice = slice(0, 3), scale: float = 3.5) -> Tensor:
    """Rollout of some of three samples."""
    noise = policy.noise([torch.Generator().manual_seed(seed) for seed in range(3)])
    conditioning = features(policy.transformer_config, 3)
    policy.take_evaluations()
    return policy.rollout(noise[rows], conditioning[rows], SIGMAS, scale, threshold)


@contextmanager
def counted(policy: FlowPolicy) -> Iterator[list[list[int]]]:
    """Samples of every call of each block, in the order of the blocks."""
    calls: list[list[int]] = [[] for _ in blocks_of(policy)]

    def count(index: int) -> Any:
        return lambda _module, _arguments, inputs: calls[index].append(len(inputs["hidden_states"]))

    hooks = [
        block.register_forward_pre_hook(count(index), with_kwargs=True) for index, block in enumerate(blocks_of(policy))
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("scale", [1.0, 3.5])
def test_threshold_of_zero_draws_the_images_without_a_cache_to_the_bit(policy: FlowPolicy, scale: float) -> None:
    expected = roll(policy, None, scale=scale)
    evaluations = policy.take_evaluations()
    assert torch.equal(roll(policy, 0.0, scale=scale), expected)
    assert policy.take_evaluations() == evaluations


@pytest.mark.parametrize("scale", [1.0, 3.5])
def test_huge_threshold_runs_only_the_first_block_after_the_first_step(policy: FlowPolicy, scale: float) -> None:
    with counted(policy) as calls:
        found = roll(policy, HUGE, scale=scale)
    rows = calls[0][0]
    assert rows == (6 if scale != 1 and network(policy).config["_class_name"].startswith("SD3") else 3)
    assert calls == [[rows] * STEPS, *[[rows]] * (len(calls) - 1)]
    # One whole call and five of the first block.
    whole_calls = 1 + (STEPS - 1) / len(calls)
    assert policy.take_evaluations().forward == pytest.approx(rows * whole_calls)
    assert not torch.equal(found, roll(policy, None, scale=scale))


def with_diffusers_cache(policy: FlowPolicy, threshold: float, row: int) -> tuple[Tensor, int]:
    """Rollout of one sample with the cache of diffusers, and the calls of its last block that compute something."""
    transformer, computed = network(policy), []
    transformer.enable_cache(FirstBlockCacheConfig(threshold))
    layer = next(blocks_of(policy)[-1].children())
    hook = layer.register_forward_pre_hook(lambda *_: computed.append(1))
    try:
        with transformer.cache_context("rollout"):
            return roll(policy, None, slice(row, row + 1)), len(computed)
    finally:
        hook.remove()
        transformer.disable_cache()


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.2, 0.4])
def test_images_are_those_of_the_cache_of_diffusers(flux: FlowPolicy, threshold: float) -> None:
    for row in range(3):
        expected, full = with_diffusers_cache(flux, threshold, row)
        with counted(flux) as calls:
            found = roll(flux, threshold, slice(row, row + 1))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert len(calls[-1]) == full


def test_thresholds_of_the_comparison_skip_some_steps_and_not_all(flux: FlowPolicy) -> None:
    full = {threshold: with_diffusers_cache(flux, threshold, 0)[1] for threshold in (0.05, 0.4)}
    assert full[0.05] > full[0.4] >= 1
    assert full[0.4] < STEPS


def test_image_does_not_depend_on_the_images_in_its_batch(policy: FlowPolicy) -> None:
    for threshold in (0.1, 0.2, 0.4):
        together = roll(policy, threshold)
        spent = policy.take_evaluations().forward
        alone, own = [], 0.0
        for row in range(3):
            alone.append(roll(policy, threshold, slice(row, row + 1)))
            own += policy.take_evaluations().forward
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)
        assert spent == pytest.approx(own)


def test_samples_of_a_batch_decide_each_for_itself() -> None:
    """Two blocks, of which the first adds `temb` and the second doubles: by hand, a cached call adds the old rest."""

    class Block(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor, self.rows = factor, list[int]()

        def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor) -> tuple[Tensor, Tensor]:
            self.rows.append(len(hidden_states))
            return encoder_hidden_states, self.factor * hidden_states + (self.factor == 1) * temb[:, None, None]

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block(1.0), Block(2.0)])

        def forward(self, image: Tensor, temb: Tensor) -> Tensor:
            text = torch.zeros(len(image), 1, 1)
            for block in self.blocks:
                text, image = block(hidden_states=image, encoder_hidden_states=text, temb=temb)
            return image.flatten()

    transformer, cache, image = Transformer(), BlockCache(0.5), torch.ones(2, 1, 1)
    first, second = transformer.blocks
    with torch.no_grad(), cache.active(transformer, ("blocks",)):
        assert transformer(image, torch.tensor([1.0, 1.0])).tolist() == [4.0, 4.0]
        # The first sample changes by 40 %, the second by 100 %.
        assert transformer(image, torch.tensor([1.4, 2.0])).tolist() == pytest.approx([2.4 + 2.0, 6.0])
        # Against its last full call the first has now changed by 60 %, the second by 20 %.
        assert transformer(image, torch.tensor([1.6, 1.6])).tolist() == pytest.approx([5.2, 2.6 + 3.0])
    assert (cast(Any, first).rows, cast(Any, second).rows) == ([2, 2, 2], [2, 1, 1])
    assert cache.skipped == 1.0


def test_every_rollout_starts_with_an_empty_cache_and_leaves_none(policy: FlowPolicy) -> None:
    names, blocks = list(network(policy).state_dict()), blocks_of(policy)
    first, again = roll(policy, HUGE), roll(policy, HUGE)
    assert torch.equal(first, again)
    assert list(network(policy).state_dict()) == names
    assert blocks_of(policy) == blocks
    with counted(policy) as calls:
        conditioning = features(policy.transformer_config, 3)
        policy.velocity(first, torch.full((3,), 0.5), conditioning, 1.0).sum().backward()
    assert calls == [[3]] * len(blocks)
    assert policy.take_evaluations().forward_backward == 3


def test_blocks_are_restored_if_a_call_fails(flux: FlowPolicy) -> None:
    blocks = blocks_of(flux)
    with pytest.raises(RuntimeError):
        flux.rollout(torch.zeros(1, 3, 1), features(flux.transformer_config, 1), SIGMAS, 1.0, 0.1)
    assert blocks_of(flux) == blocks


def test_compiled_blocks_draw_the_same_images() -> None:
    plain, compiled = policy_of("small_world"), policy_of("small_world")
    compile_blocks(network(compiled), FLUX.blocks, backend="eager")
    for threshold in (0.2, HUGE):
        torch.testing.assert_close(roll(compiled, threshold), roll(plain, threshold), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", SCORED)
def test_rollouts_of_every_algorithm_use_the_cache_or_the_config_refuses_it(kind: str) -> None:
    plain = ["algorithm.query=plain", "algorithm.branches=[denoise]"] if kind == "srpo" else []
    config = load_run([SMALL_WORLD], [f"algorithm.type={kind}", *plain])
    if kind in ("dance_grpo", "policy_gradient"):
        with pytest.raises(ValueError, match=rf"no rollout.cache_threshold with .*{kind}, got 0.1; .* or choose"):
            apply(config, {"rollout.cache_threshold": 0.1})
        return
    for threshold in (None, 0.1):
        policy: Any = CountingPolicy()
        changed = apply(config, {"rollout.cache_threshold": threshold})
        build_algorithm(changed, policy, cast(Any, PromptRewards())).collect(make_batch())
        assert policy.thresholds == [threshold]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rollout.cache_threshold=0"], r"greater than 0"),
        (["data.images=small_world:realistic"], r"every sample is a real image"),
        (
            ["training.gather_for_rollout=false", "training.num_workers=2"],
            r"gather_for_rollout=true .* got false; .* remove rollout.cache",
        ),
        (
            ["training.num_workers=2", "training.context_parallel=2"],
            r"context_parallel=1 with rollout.cache_threshold, got 2; .* remove one",
        ),
    ],
)
def test_cache_that_cannot_work_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_run([SMALL_WORLD], ["rollout.cache_threshold=0.1", *overrides])


def test_whole_weights_need_no_gather_for_the_cache() -> None:
    own = ["rollout.cache_threshold=0.1", "training.gather_for_rollout=false"]
    assert load_run([SMALL_WORLD], [*own, "training.zero_stage=2"]).rollout.cache_threshold == 0.1


def test_evaluations_run_all_blocks(flux: FlowPolicy) -> None:
    """The evaluator of a run whose rollouts use a cache, as `setup` builds it."""
    config = load_run([SMALL_WORLD], ["rollout.cache_threshold=1e9"])
    conditioning = features(flux.transformer_config, 2)
    evaluator = Evaluator(config.evaluation, ["a", "b"], conditioning, size=flux.size, sigmas=SIGMAS, truth=False)
    with counted(flux) as calls:
        evaluator.sample(flux, [0, 1])
    assert calls == [[2] * STEPS] * len(calls)


def test_cost_is_summed_over_workers_that_skip_different_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    config = apply(config_with(), {"rollout.cache_threshold": 0.1})
    monkeypatch.setattr(
        trainer_module, "gather", lambda mine: [mine, mine / 2] if isinstance(mine, float | int) else [mine]
    )
    trainer = make_trainer(config, KeptRollouts(1), CountedPolicy())
    assert trainer.update(0)["cost/forward"] == 4 * 5 * 1.5


def test_base_models_images_of_another_threshold_are_other_images(tiny_run: RunConfig, tmp_path: Path) -> None:
    names = [
        RolloutCache(apply(tiny_run, {"rollout.source": "base_model", "rollout.cache_threshold": threshold})).store
        for threshold in (None, 0.1, 0.2)
    ]
    assert len({str(cast(Any, store).__dict__) for store in names}) == 3


def test_plan_counts_the_caches_memory_and_says_that_it_counts_all_blocks(tiny_run: RunConfig) -> None:
    config = apply(tiny_run, {"rollout.cache_threshold": 0.1, "training.micro_batch_size": 2})

    def cache(run: RunConfig) -> list[int]:
        (phase,) = [each for each in trainer_memory(run, (32,)).phases if each.name == "rollout"]
        return [part.bytes for part in phase.parts if part.name == "first-block cache"]

    # Three residuals of 2 images of 16 tokens, 128 wide, float32.
    assert cache(config) == [3 * 2 * 16 * 128 * 4]
    assert cache(tiny_run) == []
    assert "all blocks of a rollout are counted" in rollout_notes(config)[0]
    assert rollout_notes(tiny_run) == ()

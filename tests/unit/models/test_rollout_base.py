"""8-bit copies of frozen layers in rollouts: against float64, restored afterwards, compiled, planned, and refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import config as dynamo
from torch._dynamo.utils import counters

from srpo_ray.config import apply, load_run
from srpo_ray.config.model import RolloutBaseType
from srpo_ray.evaluation.evaluator import Evaluator
from srpo_ray.flow import shifted_sigmas
from srpo_ray.models.attention import compile_blocks
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.families import FLUX
from srpo_ray.models.loading import load_vae
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.models.quantized import check_8_bit_floats
from srpo_ray.models.registry import policy_class
from srpo_ray.models.rollout_base import DynamicLinear8Bit, RolloutBase
from srpo_ray.models.trainable import load_tuned
from srpo_ray.planning.devices import trainer_memory
from srpo_ray.planning.schedule import rollout_notes
from tests.conftest import SMALL_WORLD
from tests.helpers.algorithms.variants import SCORED
from tests.helpers.models.tiny_pipeline import with_adapters
from tests.helpers.training.tiny_flux import batches, call, losses, tiny_transformer

LISTS = ("transformer_blocks", "single_transformer_blocks")
BASES: tuple[RolloutBaseType, ...] = ("int8", "fp8")
ROUNDING = {"int8": 0.02, "fp8": 0.1}
"""Bounds of the relative error of a velocity: inputs are rounded to 1/254 of a row's maximum, or 1/16 of themselves."""
LORA = SMALL_WORLD.parent / "small_world_lora.yaml"
(BATCH,) = batches(range(1))


def velocity(network: Any) -> Tensor:
    with torch.no_grad():
        return call(network, BATCH[0], BATCH[2])


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def rounded(rows: Tensor, base: RolloutBaseType) -> Tensor:
    """Rows in 8 bits and back, in float64 but for the cast to e4m3."""
    scale = rows.double().abs().amax(1, keepdim=True) / (127 if base == "int8" else 448)
    shares = rows.double() / scale
    return scale * (shares.round() if base == "int8" else shares.float().to(torch.float8_e4m3fn).double())


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("shape", [(2, 5, 18), (3, 40, 18)])
def test_layer_is_the_product_of_rounded_rows_and_rounded_weights(
    base: RolloutBaseType, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layer, given = nn.Linear(18, 24), torch.randn(shape)
    expected = rounded(given.flatten(0, 1), base) @ rounded(layer.weight.detach(), base).T + layer.bias.detach()
    with torch.no_grad():
        found = DynamicLinear8Bit(layer, base)(given)
    # The product of e4m3 is rounded to bfloat16.
    tolerance = 1e-5 if base == "int8" else expected.abs().max().item() / 2**8
    torch.testing.assert_close(found.double().flatten(0, 1), expected, rtol=0, atol=tolerance)
    assert found.shape == (*shape[:-1], 24)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("base", BASES)
def test_row_of_zeros_gives_the_bias(base: RolloutBaseType) -> None:
    layer = nn.Linear(18, 24)
    with torch.no_grad():
        torch.testing.assert_close(DynamicLinear8Bit(layer, base)(torch.zeros(2, 18)), layer.bias.expand(2, 24))


@pytest.mark.parametrize("base", BASES)
def test_velocity_is_that_of_plain_torch_over_the_rounded_weights(base: RolloutBaseType) -> None:
    network, reference = with_adapters(tiny_transformer()), with_adapters(tiny_transformer())
    changed = 0
    for name, parameter in reference.named_parameters():
        frozen = ".norm" not in name and "lora_" not in name and "norm_" not in name
        if "transformer_blocks." in name and frozen and name.endswith("weight"):
            parameter.data = rounded(parameter.data, base).float()
            changed += 1
    # Eight projections of attention, two layers of each feed-forward network; three projections and two layers.
    assert changed == 12 + 5
    own = velocity(network)
    with RolloutBase(network, base, LISTS).active():
        found = velocity(network)
        assert sum(isinstance(layer, DynamicLinear8Bit) for layer in network.modules()) == changed
    assert 0 < relative(found, velocity(reference)) < ROUNDING[base]
    assert not torch.equal(found, own)


@pytest.mark.parametrize("base", BASES)
def test_calls_outside_a_rollout_are_bit_equal_even_after_an_error(base: RolloutBaseType) -> None:
    network = with_adapters(tiny_transformer())
    before, gradients = velocity(network), gradients_of(network)
    names = list(network.state_dict())
    copies = RolloutBase(network, base, LISTS)
    with copies.active():
        assert not torch.equal(velocity(network), before)
    with pytest.raises(RuntimeError, match="shapes"), copies.active():
        call(network, BATCH[0][..., :1], BATCH[2])
    assert torch.equal(velocity(network), before)
    assert all(torch.equal(value, gradients[name]) for name, value in gradients_of(network).items())
    assert list(network.state_dict()) == names


def gradients_of(network: Any) -> dict[str, Tensor]:
    network.zero_grad()
    losses(network, *BATCH).backward()
    return {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}


def test_adapters_keep_their_precision_and_their_change_is_in_the_next_rollout() -> None:
    network = with_adapters(tiny_transformer())
    copies = RolloutBase(network, "int8", LISTS)
    with copies.active():
        before = velocity(network)
        shown = {id(parameter) for parameter in network.parameters()}
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter in trained} <= shown
    for parameter in trained:
        parameter.data.mul_(1.5)
    with copies.active():
        after = velocity(network)
    with RolloutBase(network, "int8", LISTS).active():
        assert torch.equal(after, velocity(network))
    assert not torch.equal(after, before)


def test_compiled_blocks_get_one_more_version_each_and_the_outputs_of_eager_ones() -> None:
    torch._dynamo.reset()
    counters.clear()
    network, plain = with_adapters(tiny_transformer()), with_adapters(tiny_transformer())
    compile_blocks(network, FLUX.blocks, backend="eager")
    copies, eager = RolloutBase(network, "int8", LISTS), RolloutBase(plain, "int8", LISTS)

    def update() -> None:
        with copies.active():
            found = velocity(network)
        with eager.active():
            torch.testing.assert_close(found, velocity(plain), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(velocity(network), velocity(plain), rtol=1e-5, atol=1e-6)
        losses(network, *BATCH).backward()

    update()
    # Two kinds of blocks: in rollouts, in evaluations, and with gradient.
    graphs = counters["stats"]["unique_graphs"]
    assert graphs == 2 * 3
    with dynamo.patch(error_on_recompile=True):
        update()
    assert counters["stats"]["unique_graphs"] == graphs
    torch._dynamo.reset()


def policy_with(base: RolloutBaseType | None) -> FlowPolicy:
    transformer = load_tuned(load_run([LORA]), torch.float32, "cpu", None)
    kind = policy_class("small_world")
    vae = load_vae("small_world", torch.float32)
    policy = kind(transformer, vae, transformer.config, resolution=64, dtype=torch.float32)
    if base:
        policy.rollout_base = RolloutBase(transformer, base, policy.block_lists)
    return policy


def test_rollouts_of_a_policy_use_the_copies_also_with_a_block_cache_and_its_samples_do_not() -> None:
    found, plain = policy_with("int8"), policy_with(None)
    source = torch.Generator().manual_seed(0)
    shape = found.transformer_config
    conditioning = Conditioning(
        torch.randn(1, 16, shape["joint_attention_dim"], generator=source),
        torch.randn(1, shape["pooled_projection_dim"], generator=source),
    )
    given = found.noise([source]), conditioning, shifted_sigmas(2, 3.0), 1.0
    expected, rollout = plain.rollout(*given), found.rollout(*given)
    assert 0 < relative(rollout, expected) < 0.05
    # This threshold skips nothing.
    torch.testing.assert_close(found.rollout(*given, 1e-9), rollout)
    with torch.no_grad():
        assert torch.equal(found.integrate(*given), plain.integrate(*given))


def test_evaluations_do_not_use_the_copies() -> None:
    copied, plain = policy_with("int8"), policy_with(None)
    source, shape = torch.Generator().manual_seed(0), plain.transformer_config
    conditioning = Conditioning(
        torch.randn(1, 16, shape["joint_attention_dim"], generator=source),
        torch.randn(1, shape["pooled_projection_dim"], generator=source),
    )
    config = load_run([LORA])
    evaluator = Evaluator(
        config.evaluation, ["a"], conditioning, size=config.model.size, sigmas=shifted_sigmas(2, 3.0), truth=True
    )
    assert torch.equal(evaluator.sample(copied, [0]), evaluator.sample(plain, [0]))


def test_plan_counts_the_bytes_of_the_copies() -> None:
    config = load_run([LORA], ["rollout.base=int8"])
    copies = policy_with("int8").rollout_base
    assert copies is not None
    held = {
        id(buffer): buffer.numel() * buffer.element_size()
        for blocks in copies._lists.values()
        for layer in blocks.modules()
        if isinstance(layer, DynamicLinear8Bit)
        for buffer in layer.buffers()
    }
    name = "8-bit copies for rollouts"
    assert [part.bytes for part in trainer_memory(config, (32,)).always if part.name == name] == [sum(held.values())]
    assert not [part for part in trainer_memory(load_run([LORA]), (32,)).always if part.name == name]
    assert any("rollout.base" in note for note in rollout_notes(config))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.lora=null"], r"model.lora with rollout.base=int8, got none; .* remove rollout.base"),
        (["model.base=int8"], r"no model.base with rollout.base=int8, got int8; .* remove one"),
        (["training.zero_stage=3"], r"ZeRO stage 1 or 2 with rollout.base=int8, got 3 .* remove training.zero_stage"),
        (["rollout.source=base_model"], r"rollout.source=policy with rollout.base=int8, got base_model; .* remove"),
        (["training.num_workers=2", "training.context_parallel=2"], r"context_parallel=1 with rollout.base=int8"),
        (["data.images=small_world:realistic"], r"no rollout.base with data.image_ratio=1, got int8; .* remove it"),
        (["rollout.base=nf4"], r"rollout.base"),
    ],
)
def test_copies_that_cannot_work_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_run([LORA], ["rollout.base=int8", *overrides])


@pytest.mark.parametrize("kind", SCORED)
def test_every_algorithm_accepts_the_copies_but_for_those_that_need_exact_rollouts(kind: str) -> None:
    plain = ["algorithm.query=plain", "algorithm.branches=[denoise]"] if kind == "srpo" else []
    config = load_run([SMALL_WORLD], [f"algorithm.type={kind}", *plain, "model.lora.rank=2"])
    if kind in ("dance_grpo", "policy_gradient"):
        with pytest.raises(ValueError, match=rf"no rollout.base with algorithm.type={kind}, got fp8; .* choose"):
            apply(config, {"rollout.base": "fp8"})
        return
    assert apply(config, {"rollout.base": "fp8"}).rollout.base == "fp8"


def test_8_bit_floats_in_rollouts_need_an_ada_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    with pytest.raises(ValueError, match=r"8.9 or higher for rollout.base=fp8, got 8.0; .* or rollout.base=int8"):
        check_8_bit_floats("fp8", "cuda:0", "rollout.base")
    check_8_bit_floats("int8", "cuda:0", "rollout.base")
    check_8_bit_floats("fp8", "cpu", "rollout.base")

"""Compiled blocks: graphs without breaks, compiled once per kind of block and mode and never again."""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor
from torch._dynamo import config as dynamo
from torch._dynamo.exc import Unsupported
from torch._dynamo.utils import counters

from srpo_ray.config.model import LoraConfig
from srpo_ray.models.attention import compile_blocks
from srpo_ray.models.exact_time import embed_exact_times, exact_times
from srpo_ray.models.families import FLUX, SD3
from srpo_ray.models.trainable import add_adapters
from tests.helpers.training.tiny_flux import tiny_transformer

ROLLOUT, GRADIENT = 3, 2
"""Batch sizes of calls without and with gradient."""


@pytest.fixture(autouse=True)
def compiler_without_earlier_code() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def sd3() -> Any:
    """Two blocks with dual attention, two plain ones, and the last, which returns no text."""
    return SD3Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=3,
        num_layers=5,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=7,
        caption_projection_dim=16,
        pooled_projection_dim=5,
        out_channels=3,
        pos_embed_max_size=4,
        dual_attention_layers=(0, 1),
        qk_norm="rms_norm",
    )


def network_of(family: str, *, adapters: bool, checkpointed: bool) -> Any:
    torch.manual_seed(0)
    network = {"flux": partial(tiny_transformer, blocks=3), "sd3": sd3}[family]()
    embed_exact_times(network)
    if adapters:
        add_adapters(network, LoraConfig(rank=2), seed=0)
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    if checkpointed:
        network.enable_gradient_checkpointing()
    return network.train()


def call(network: Any, batch: int, seed: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    given: dict[str, Any] = {
        "timestep": torch.rand(batch, generator=source),
        "encoder_hidden_states": torch.randn(batch, 2, 7, generator=source),
        "pooled_projections": torch.randn(batch, 5, generator=source),
        "return_dict": False,
    }
    if isinstance(network, SD3Transformer2DModel):
        return network(torch.randn(batch, 3, 4, 4, generator=source), **given)[0]
    guidance = torch.full((batch,), 3.5)
    given |= {"guidance": guidance, "txt_ids": torch.zeros(2, 3), "img_ids": torch.zeros(4, 3)}
    with exact_times(given["timestep"] * 1000, guidance * 1000):
        return network(torch.randn(batch, 4, 12, generator=source), **given)[0]


def update(network: Any, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """A rollout and two losses in one backward pass: its output, and the gradients."""
    with torch.no_grad():
        rollout = call(network, ROLLOUT, seed)
    network.zero_grad()
    (call(network, GRADIENT, seed).square().mean() + call(network, GRADIENT, seed + 1).abs().mean()).backward()
    gradients = {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}
    return rollout, gradients


def change_weights(network: Any) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.01)


def cases() -> list[Any]:
    """Family, adapters, recomputation, and the number of versions. Two are quick tests."""
    quick = {("flux", True, True), ("sd3", False, False)}
    found = []
    for family, adapters, checkpointed in itertools.product(("flux", "sd3"), (False, True), (False, True)):
        # FLUX has double blocks, and single ones whose inputs are whole tensors (the first) or parts of one (others).
        # SD3 has the three kinds of `sd3`. With adapters, no trained weight is before the first block, so with
        # gradient it has a version of its own.
        versions = 3 * 2 + adapters
        marks = () if (family, adapters, checkpointed) in quick else pytest.mark.long
        found.append(pytest.param(family, adapters, checkpointed, versions, marks=marks))
    return found


@pytest.mark.parametrize(("family", "adapters", "checkpointed", "versions"), cases())
def test_blocks_compile_once_per_kind_and_mode_without_breaks(
    family: str, adapters: bool, checkpointed: bool, versions: int
) -> None:
    network = network_of(family, adapters=adapters, checkpointed=checkpointed)
    compile_blocks(network, FLUX.blocks + SD3.blocks, backend="eager")
    update(network, seed=0)
    assert counters["stats"]["unique_graphs"] == versions
    with dynamo.patch(error_on_recompile=True):
        for seed in (2, 4):
            change_weights(network)
            update(network, seed)
    assert counters["stats"]["unique_graphs"] == versions
    assert not counters["graph_break"]


@pytest.mark.long
@pytest.mark.parametrize("checkpointed", [False, True])
def test_compiled_blocks_have_the_outputs_and_gradients_of_eager_ones(checkpointed: bool) -> None:
    found, expected = (network_of("flux", adapters=True, checkpointed=checkpointed) for _ in range(2))
    # All of the compiler but the making of kernels, which takes minutes on a CPU.
    compile_blocks(found, FLUX.blocks, backend="aot_eager")
    (outputs, gradients), (eager_outputs, eager_gradients) = update(found, seed=0), update(expected, seed=0)
    torch.testing.assert_close(outputs, eager_outputs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients, eager_gradients, rtol=1e-4, atol=1e-6)
    assert len(gradients) == sum(parameter.requires_grad for parameter in expected.parameters()) > 0


def test_every_block_is_compiled_and_modules_and_state_dict_stay() -> None:
    network: Any = tiny_transformer(blocks=3)
    names, modules = list(network.state_dict()), dict(network.named_modules())
    compile_blocks(network, FLUX.blocks)
    assert list(network.state_dict()) == names
    assert dict(network.named_modules()) == modules
    compiled = [name for name, module in network.named_modules() if "forward" in vars(module)]
    assert compiled == [f"{kind}.{n}" for kind in ("transformer_blocks", "single_transformer_blocks") for n in range(3)]


def test_graph_break_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models.transformers.transformer_flux import FluxAttnProcessor

    plain = FluxAttnProcessor.__call__

    def breaking(*given: Any, **more: Any) -> Any:
        torch._dynamo.graph_break()
        return plain(*given, **more)

    monkeypatch.setattr(FluxAttnProcessor, "__call__", breaking)
    network = network_of("flux", adapters=False, checkpointed=False)
    compile_blocks(network, FLUX.blocks, backend="eager")
    with pytest.raises(Unsupported, match="graph_break"):
        update(network, seed=0)

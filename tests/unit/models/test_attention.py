"""Attention kernels: each that can be chosen has a backward pass, and one that does not run here is refused."""

from contextlib import nullcontext
from typing import Any, get_args

import pytest
import torch
from diffusers.models import attention_dispatch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from srpo_ray.config.model import ModelConfig
from srpo_ray.models.attention import check_attention, set_attention
from tests.helpers.training.tiny_flux import tiny_transformer

KERNELS = get_args(ModelConfig.model_fields["attention"].annotation)


def flash_2(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
    """Stand-in for flash-attn's function `[B, tokens, heads, size]`, which has a formula for its gradient."""
    return scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


@torch.library.custom_op("srpo_ray_tests::forward_only", mutates_args=())
def forward_only(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Kernel without a formula for its gradient."""
    return q * 1


@pytest.fixture
def kernels_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins for the packages, and the CPU for torch's own kernels. The list gets the names that are activated."""
    activated: list[str] = []
    monkeypatch.setattr(attention_dispatch, "flash_attn_func", flash_2)
    monkeypatch.setattr(attention_dispatch, "_CAN_USE_FLASH_ATTN", True)
    monkeypatch.setattr(torch.nn.attention, "activate_flash_attention_impl", activated.append)
    # Any kernel of the CPU, as cuDNN's is none of them.
    monkeypatch.setattr(torch.nn.attention, "sdpa_kernel", lambda _: nullcontext())
    # diffusers' choice for a transformer also becomes that of all models of the process.
    registry = attention_dispatch._AttentionBackendRegistry
    monkeypatch.setattr(registry, "_active_backend", registry._active_backend)
    return activated


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_gives_the_gradient_of_attention(kernel: str, kernels_of_a_gpu: list[str]) -> None:
    network: Any = tiny_transformer()
    set_attention(network, kernel)
    chosen = {processor._attention_backend for processor in network.attn_processors.values()}.pop()
    generator = torch.Generator().manual_seed(0)
    q, k, v = inputs = [torch.randn(1, 6, 2, 8, generator=generator, requires_grad=True) for _ in range(3)]
    expected = torch.autograd.grad(_reference(q, k, v).square().sum(), inputs)
    out = attention_dispatch.dispatch_attention_fn(q, k, v, backend=chosen)
    for got, want in zip(torch.autograd.grad(out.square().sum(), inputs), expected, strict=True):
        torch.testing.assert_close(got, want)
    assert kernels_of_a_gpu == (["FA3"] if kernel == "flash_3" else [])


def _reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).mul(8**-0.5).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v)


@pytest.mark.parametrize(
    ("op", "more"), [("_scaled_dot_product_flash_attention", ()), ("_scaled_dot_product_cudnn_attention", (None, True))]
)
def test_the_gpu_kernels_of_torch_have_a_formula_for_the_gradient(op: str, more: tuple[Any, ...]) -> None:
    # FlashAttention 3 replaces the CUDA kernels below this formula, forward and backward.
    query = torch.zeros(1, 2, 128, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
    out = getattr(torch.ops.aten, op)(query, query, query, *more)[0]
    assert torch.autograd.grad(out.sum(), query)[0].shape == query.shape


def test_kernel_without_a_backward_pass_is_refused(
    kernels_of_a_gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_attention("flash", "cpu")
    monkeypatch.setattr(attention_dispatch, "flash_attn_func", lambda q, k, v, **_: forward_only(q, k, v))
    with pytest.raises(ValueError, match=r"model.attention: expected a kernel that runs on this machine, got 'flash'"):
        check_attention("flash", "cpu")


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel != "native"])
def test_kernel_that_this_machine_lacks_is_refused_with_what_to_install(kernel: str) -> None:
    cure = {"cudnn": "capability 8.0", "flash": "flash-attn", "flash_3": "flash_attn_interface"}[kernel]
    with pytest.raises(ValueError, match=rf"model.attention: .* got '{kernel}' .*{cure}.*or use native"):
        check_attention(kernel, "cpu")


def test_native_attention_leaves_the_transformer_as_it_is() -> None:
    network: Any = tiny_transformer()
    check_attention("native", "cpu")
    set_attention(network, "native")
    assert {processor._attention_backend for processor in network.attn_processors.values()} == {None}


def test_float32_is_refused_with_kernels_that_lack_it() -> None:
    with pytest.raises(ValueError, match=r"expected dtype=bfloat16 with attention=flash_3"):
        ModelConfig(attention="flash_3")
    assert ModelConfig(attention="flash_3", dtype="bfloat16").attention == "flash_3"

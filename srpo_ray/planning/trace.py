"""Memory and arithmetic of a computation, from running it on the meta device: its own code, on tensors without data."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

_FLASH: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001, torch has no other name
_FLASH_BACKWARD: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001


@dataclass(frozen=True)
class Cost:
    """What a computation holds beside its parameters, in bytes, and how much it computes."""

    saved: int = 0
    """Held between forward and backward pass; 0 without gradient."""
    peak: int = 0
    """Most held at any time, the saved included."""
    forward_flops: float = 0.0
    """Two per multiplication and addition."""
    backward_flops: float = 0.0
    """With what is recomputed."""


def trace_gradient(compute: Callable[[], Tensor], modules: Iterable[nn.Module], *, gpu: bool) -> Cost:
    """Cost of a forward pass and the backward pass from its result.

    Every gradient of a parameter is let go of as soon as it is whole, as ZeRO does.

    Args:
        compute: The forward pass, on the meta device.
        modules: Those whose parameters it uses: they are not counted.
        gpu: Whether normalisations are single kernels, as on a GPU, or made of several, as on a CPU.
    """
    known = list(modules)
    with ExitStack() as stack:
        for parameter in _parameters(known):
            if parameter.requires_grad:
                stack.callback(parameter.register_post_accumulate_grad_hook(_let_go).remove)
        live, flops = LiveBytes(known), _flop_counter()
        stack.enter_context(flops)
        stack.enter_context(live)
        stack.enter_context(_fused_kernels(normalisation=gpu))
        result = compute()
        saved, forward_flops = live.bytes, flops.get_total_flops()
        result.backward(torch.empty_like(result))
        return Cost(saved, live.peak, forward_flops, flops.get_total_flops() - forward_flops)


def trace_forward(compute: Callable[[], Tensor], modules: Iterable[nn.Module], *, gpu: bool) -> Cost:
    """Cost of a forward pass without gradient; arguments as `trace_gradient`."""
    live, flops = LiveBytes(modules), _flop_counter()
    with torch.no_grad(), flops, live, _fused_kernels(normalisation=gpu):
        compute()
    return Cost(0, live.peak, flops.get_total_flops(), 0.0)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is on, for as long as each lives."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        """Begin at zero.

        Args:
            modules: Their parameters and buffers are there already, and so are no new bytes.
        """
        super().__init__()
        self.bytes = 0
        self.peak = 0
        self._living: set[int] = set()
        # Kept, so that no new tensor gets the address of one of these.
        self._known = [tensor for module in modules for tensor in module.state_dict(keep_vars=True).values()]
        self._living.update(tensor.untyped_storage()._cdata for tensor in self._known)  # noqa: SLF001

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count what it makes."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        self.peak = max(self.peak, self.bytes)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()  # noqa: SLF001
        if key not in self._living:
            self._living.add(key)
            self.bytes += size
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._living.discard(key)
        self.bytes -= size


@contextmanager
def _fused_kernels(*, normalisation: bool) -> Iterator[None]:
    """Attention, and on a GPU normalisation, as one kernel: on the meta device torch would take them apart.

    Not by a mode for torch's functions: inside a function of torch that it lets pass, such a mode is off.
    """
    own = {"scaled_dot_product_attention": _attention} | ({"rms_norm": _rms_norm} if normalisation else {})
    theirs = {name: getattr(functional, name) for name in own}
    try:
        vars(functional).update(own)
        yield
    finally:
        vars(functional).update(theirs)


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, *_: Any, **__: Any) -> Tensor:
    return _FLASH(query, key, value, attn_mask=attn_mask)[0]


def _rms_norm(rows: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    return _RMSNorm.apply(rows, shape, weight, eps)


class _RMSNorm(torch.autograd.Function):
    """Shapes of the one-kernel normalisation: it keeps its input and one float32 number per row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, shape: Sequence[int], weight: Tensor | None, _eps: float | None) -> Tensor:
        scale = torch.empty(rows.shape[: -len(shape)], dtype=torch.float32, device=rows.device)
        ctx.save_for_backward(rows, weight, scale)
        return torch.empty_like(rows)

    @staticmethod
    def backward(ctx: Any, *_gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, _ = ctx.saved_tensors
        return torch.empty_like(rows), None, None if weight is None else torch.empty_like(weight), None


def _flop_counter() -> FlopCounterMode:
    mapping = {_FLASH: _attention_flops, _FLASH_BACKWARD: _attention_backward_flops}
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


def _parameters(modules: Iterable[nn.Module]) -> Iterable[nn.Parameter]:
    return (parameter for module in modules for parameter in module.parameters())


def _let_go(parameter: Tensor) -> None:
    parameter.grad = None

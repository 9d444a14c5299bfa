"""Memory and FLOPs of a computation, traced by running its code on the meta device, without data."""

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
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_FLASH: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001, torch has no other name
_FLASH_BACKWARD: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001

_WHERE: Any = torch.where


@dataclass(frozen=True)
class Cost:
    """Memory of a computation without its parameters, in bytes, and its FLOPs."""

    saved: int = 0
    """Activations saved between forward and backward pass; 0 without gradient."""
    peak: int = 0
    """Peak, the saved activations included."""
    forward_flops: float = 0.0
    """FLOPs of the forward pass; a multiplication and addition count as two."""
    backward_flops: float = 0.0
    """FLOPs of the backward pass, recomputation included."""


def trace_gradient(compute: Callable[[], Tensor], modules: Iterable[nn.Module], *, gpu: bool) -> Cost:
    """Trace the cost of a forward pass and of the backward pass from its result.

    The gradient of a parameter is freed as soon as it is complete, as ZeRO does.

    Args:
        compute: The forward pass, on the meta device.
        modules: Modules whose parameters it uses. Their memory is not counted.
        gpu: True for normalisations as single kernels, as on a GPU. False for several kernels, as on a CPU.
    """
    known = list(modules)
    with ExitStack() as stack:
        for parameter in _parameters(known):
            if parameter.requires_grad:
                stack.callback(parameter.register_post_accumulate_grad_hook(_free_gradient).remove)
        meter = stack.enter_context(Meter(known))
        stack.enter_context(_fused_kernels(normalisation=gpu))
        result = compute()
        saved, forward_flops = meter.bytes, meter.flops
        result.backward(torch.empty_like(result))
        return Cost(saved, meter.peak, forward_flops, meter.flops - forward_flops)


def trace_forward(compute: Callable[[], Tensor], modules: Iterable[nn.Module], *, gpu: bool) -> Cost:
    """Trace the cost of a forward pass without gradient. The arguments are those of `trace_gradient`."""
    with torch.no_grad(), Meter(modules) as meter, _fused_kernels(normalisation=gpu):
        compute()
    return Cost(0, meter.peak, meter.flops, 0.0)


class Meter(TorchDispatchMode):
    """Count FLOPs and the bytes of living tensors while the mode is active.

    The formulas are those of torch's own FLOP counter. The counter itself would extend the life of recomputed tensors.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        """Start at zero.

        Args:
            modules: Modules whose parameters and buffers exist already, so that they are not counted.
        """
        super().__init__()
        self.bytes = 0
        self.peak = 0
        self.flops = 0.0
        self._living: set[int] = set()
        # References keep these alive, so that no new tensor gets the address of one of them.
        self._before: list[Tensor] = []
        for module in modules:
            self._know(module.state_dict(keep_vars=True).values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and count it and its results."""
        kwargs = kwargs or {}
        self._know(tree_leaves((args, kwargs)))
        result = func(*args, **kwargs)
        formula = _FORMULAS.get(func._overloadpacket)  # noqa: SLF001, torch has no other name
        if formula:
            self.flops += formula(*args, **kwargs, out_val=result)
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        self.peak = max(self.peak, self.bytes)
        return result

    def _know(self, values: Iterable[Any]) -> None:
        """Record the inputs that no counted operation has made: they existed before."""
        for value in values:
            if isinstance(value, Tensor) and (key := value.untyped_storage()._cdata) not in self._living:  # noqa: SLF001
                self._living.add(key)
                self._before.append(value)

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
    """Replace attention, and for a GPU normalisation, by single kernels, and let `torch.where` take a mask of the CPU.

    On the meta device torch would decompose them. Qwen-Image-2.1 reads the values of its masks, which are on the CPU.
    A `TorchFunctionMode` cannot do this: it is inactive inside the torch functions that it passes on.
    """
    own: dict[tuple[Any, str], Any] = {
        (functional, "scaled_dot_product_attention"): _attention,
        (torch, "where"): _where,
    }
    if normalisation:
        own[functional, "rms_norm"] = _rms_norm
    theirs = {place: getattr(*place) for place in own}
    try:
        for place, kernel in own.items():
            setattr(*place, kernel)
        yield
    finally:
        for place, function in theirs.items():
            setattr(*place, function)


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, *_: Any, **__: Any) -> Tensor:
    return _FLASH(query, key, value, attn_mask=attn_mask)[0]


def _where(condition: Tensor, *values: Any) -> Any:
    device = next((value.device for value in values if isinstance(value, Tensor)), condition.device)
    return _WHERE(condition.to(device), *values)


def _rms_norm(rows: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    return _RMSNorm.apply(rows, shape, weight, eps)


class _RMSNorm(torch.autograd.Function):
    """Shapes of the fused normalisation, which saves its input and one float32 number per row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, shape: Sequence[int], weight: Tensor | None, _eps: float | None) -> Tensor:
        scale = torch.empty(rows.shape[: -len(shape)], dtype=torch.float32, device=rows.device)
        ctx.save_for_backward(rows, weight, scale)
        return torch.empty_like(rows)

    @staticmethod
    def backward(ctx: Any, *_gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, _ = ctx.saved_tensors
        return torch.empty_like(rows), None, None if weight is None else torch.empty_like(weight), None


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward_flops(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    _FLASH: _attention_flops,
    _FLASH_BACKWARD: _attention_backward_flops,
}
"""Formulas by operation: FLOPs from the arguments and the result `out_val`."""


def _parameters(modules: Iterable[nn.Module]) -> Iterable[nn.Parameter]:
    return (parameter for module in modules for parameter in module.parameters())


def _free_gradient(parameter: Tensor) -> None:
    parameter.grad = None

"""The only place that touches DeepSpeed: sharded weights, backward, update."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import deepspeed.ops
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_grad,
    safe_get_full_optimizer_state,
    safe_get_local_fp32_param,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from srpo_ray.config.training import TrainingConfig

MOMENTS = ("exp_avg", "exp_avg_sq")


def _skip_compiled_shared_memory() -> None:
    """DeepSpeed compiles a CPU extension at start behind a lock file that a killed process leaves for ever.

    gloo does the same work without it.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class Engine:
    """Trains a module's parameters that require gradient, sharded over the workers by ZeRO.

    An update is any number of rounds of forward passes and one `backward` over their summed loss, followed by
    one `step`. Forward, forward, backward, backward is refused: ZeRO-3 would drop gradients in silence.
    """

    def __init__(self, module: nn.Module, config: TrainingConfig, dtype: torch.dtype) -> None:
        """Shard `module` by ZeRO-3 over the initialised process group.

        Args:
            module: The transformer; parameters without `requires_grad` are sharded but not updated.
            config: Optimizer settings and batch sizes.
            dtype: Data type of the forward passes; float32 master weights are kept either way.
        """
        _skip_compiled_shared_memory()
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        # DeepSpeed's own annotations fit neither what it takes nor what it returns.
        initialize: Any = deepspeed.initialize
        self._engine, *_ = initialize(
            model=module,
            model_parameters=trainable,
            config=_deepspeed_config(config, dtype),
            dist_init_required=False,
        )
        self._trainable = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self._forward_passes = 0
        self._gather = config.gather_for_rollout
        self._gathered = False

    @property
    def module(self) -> nn.Module:
        """The wrapped transformer, for calls without gradient."""
        return self._engine.module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the transformer; with gradient through the engine, without it through the bare module."""
        if not torch.is_grad_enabled():
            return self.module(*args, **kwargs)
        assert not self._gathered, "a forward pass with gradient needs ZeRO's hooks, so it cannot be in `gathered`"
        self._forward_passes += 1
        return self._engine(*args, **kwargs)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Hold the whole weights on every worker, for many calls without gradient; all workers must enter."""
        if not self._gather:
            yield
            return
        with deepspeed.zero.GatheredParameters(list(self.module.parameters())), _without_hooks(self.module):
            self._gathered = True
            try:
                yield
            finally:
                self._gathered = False

    def backward(self, loss: Tensor) -> None:
        """Back-propagate the summed loss of all forward passes since the last `backward`.

        Gradients add up until `step` and are averaged over the workers.
        """
        assert self._forward_passes, "every backward needs a forward pass after the backward before it"
        self._forward_passes = 0
        self._engine.backward(loss)

    def step(self) -> float:
        """Update the weights once and clear the gradients.

        Returns:
            Global gradient norm before clipping.
        """
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def gradients(self) -> dict[str, Tensor]:
        """Whole gradients by parameter name, between `backward` and `step`; all workers must call."""
        return {name: _whole(safe_get_full_grad(parameter)) for name, parameter in self._trainable.items()}

    def weights(self) -> dict[str, Tensor]:
        """Whole float32 master weights by parameter name, on the CPU; all workers must call."""
        return {name: _whole(safe_get_full_fp32_param(value)) for name, value in self._trainable.items()}

    def optimizer_state(self) -> dict[str, Tensor]:
        """Whole Adam moments as `<parameter name>/<moment>`, after at least one `step`; all workers must call."""
        return {
            f"{name}/{moment}": _whole(safe_get_full_optimizer_state(parameter, moment))
            for name, parameter in self._trainable.items()
            for moment in MOMENTS
        }

    def load(self, weights: dict[str, Tensor], optimizer_state: dict[str, Tensor], steps: int) -> None:
        """Take over master weights and optimizer of a checkpoint, before the first update.

        The module itself must hold the same weights already: this sets the float32 copies only.

        Args:
            weights: What `weights` gave, at any number of workers.
            optimizer_state: What `optimizer_state` gave; empty if no update was made.
            steps: Updates made.
        """
        for name, parameter in self._trainable.items():
            safe_set_local_fp32_param(parameter, _shard(weights[name], parameter))
        if not optimizer_state:
            return
        zero = self._engine.optimizer
        for flat in zero.fp32_partitioned_groups_flat:
            zero.optimizer.state[flat] = {"step": torch.tensor(float(steps))}
            zero.optimizer.state[flat] |= {moment: torch.zeros_like(flat) for moment in MOMENTS}
        for name, parameter in self._trainable.items():
            for moment in MOMENTS:
                local = _shard(optimizer_state[f"{name}/{moment}"], parameter)
                safe_set_local_optimizer_state(parameter, local, moment)


@contextmanager
def _without_hooks(module: nn.Module) -> Iterator[None]:
    """Call submodules without ZeRO's hooks, which gather and release weights around each and so cost time in vain."""
    stashed: list[tuple[dict[int, Any], dict[int, Any]]] = []
    for submodule in module.modules():
        for hooks in (submodule._forward_pre_hooks, submodule._forward_hooks):  # noqa: SLF001, torch has no other way
            stashed.append((hooks, dict(hooks)))
            hooks.clear()
    try:
        yield
    finally:
        for hooks, kept in stashed:
            hooks.update(kept)


def _whole(value: Tensor | None) -> Tensor:
    assert value is not None, "DeepSpeed holds no such state"
    return value.detach().float().cpu().clone()


def _shard(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """This worker's part of a whole tensor; ZeRO-3 pads the last part."""
    size = safe_get_local_fp32_param(parameter).numel()
    rank, world_size = dist.get_rank(), dist.get_world_size()
    flat = functional.pad(value.flatten(), (0, size * world_size - value.numel()))
    return flat[rank * size : (rank + 1) * size].to(parameter.device)


def _deepspeed_config(config: TrainingConfig, dtype: torch.dtype) -> dict[str, Any]:
    optimizer = config.optimizer
    return {
        "train_micro_batch_size_per_gpu": config.micro_batch_size or config.worker_batch_size,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": optimizer.max_grad_norm,
        "zero_optimization": {"stage": 3},
        "bf16": {"enabled": dtype == torch.bfloat16},
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": optimizer.lr,
                "betas": list(optimizer.betas),
                "eps": optimizer.eps,
                "weight_decay": optimizer.weight_decay,
                "torch_adam": True,
            },
        },
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }

"""Access to trained weights whatever the ZeRO stage: shards of one worker, and whole tensors from all shards.

Nothing else depends on the stage. Shards are flat; those of master weights, EMA and moments are float32.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_grad,
    safe_get_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn
from torch import distributed as dist

from srpo_ray.training.shards import cut, forward_hooks, join, without_hooks

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Moments of AdamW."""


class Partition(ABC):
    """Trained weights of a module under DeepSpeed.

    The methods take a parameter of `parameters`. All workers must call those that return whole tensors.
    """

    def __init__(self, module: nn.Module, zero: Any) -> None:
        """Open the weights of a module that DeepSpeed has initialised.

        Args:
            module: The module.
            zero: DeepSpeed's optimizer.
        """
        # Any, as DeepSpeed adds attributes to parameters.
        self.parameters: dict[str, Any] = {
            name: value for name, value in module.named_parameters() if value.requires_grad
        }
        self._module, self._zero = module, zero

    @abstractmethod
    def gathered(self) -> AbstractContextManager[None]:
        """Keep whole weights on every worker, for many calls without gradient."""

    @abstractmethod
    def master(self, parameter: Any) -> Tensor:
        """Return this worker's shard of the float32 master weights. With `training.offload`, it lies on the host."""

    @abstractmethod
    def set_master(self, parameter: Any, shard: Tensor) -> None:
        """Replace this worker's shard of the master weights."""

    @abstractmethod
    def forward_shard(self, parameter: Any) -> Tensor:
        """Return this worker's shard of the weights of forward passes, in their data type. Changes take effect."""

    @abstractmethod
    def publish(self) -> None:
        """Send changed shards of the weights of forward passes to the other workers, where those keep copies."""

    @abstractmethod
    def cut(self, parameter: Any, whole: Tensor) -> Tensor:
        """Cut this worker's shard out of a whole tensor, on the device of the master weights."""

    @abstractmethod
    def join(self, parameter: Any, shard: Tensor) -> Tensor:
        """Return a whole tensor from the shards of all workers."""

    @abstractmethod
    def gradient(self, parameter: Any) -> Tensor | None:
        """Return the whole gradient, averaged over the workers, between backward pass and optimizer step."""

    @abstractmethod
    def start_moments(self, steps: int) -> None:
        """Give the optimizer moments of zero and its number of steps, before its first step."""

    @abstractmethod
    def set_moment(self, parameter: Any, moment: str, shard: Tensor) -> None:
        """Replace this worker's shard of a moment."""

    def weights(self, parameter: Any) -> Tensor | None:
        """Return the whole master weights."""
        return safe_get_full_fp32_param(parameter)

    def moment(self, parameter: Any, moment: str) -> Tensor | None:
        """Return a whole moment, after the first optimizer step."""
        return safe_get_full_optimizer_state(parameter, moment)


class ShardedWeights(Partition):
    """Weights of ZeRO-3: every parameter is cut into equal shards, the last one padded."""

    def gathered(self) -> AbstractContextManager[None]:
        """See `Partition.gathered`."""
        return self._gathered()

    @contextmanager
    def _gathered(self) -> Iterator[None]:
        with deepspeed.zero.GatheredParameters(list(self._module.parameters())), without_hooks(self._module):
            yield

    def master(self, parameter: Any) -> Tensor:
        """See `Partition.master`."""
        # DeepSpeed's own function would copy an offloaded shard to the GPU.
        group, start, size = self._zero.grad_position[self._zero.get_param_id(parameter)]
        return self._zero.fp32_partitioned_groups_flat[group].detach().narrow(0, start, size)

    def set_master(self, parameter: Any, shard: Tensor) -> None:
        """See `Partition.set_master`."""
        safe_set_local_fp32_param(parameter, shard)

    def forward_shard(self, parameter: Any) -> Tensor:
        """See `Partition.forward_shard`."""
        return parameter.ds_tensor.data

    def publish(self) -> None:
        """See `Partition.publish`."""
        # ZeRO keeps small parameters whole on every worker, so it does not gather them again.
        whole = [value for value in self.parameters.values() if value.ds_status == ZeroParamStatus.AVAILABLE]
        if whole:
            whole[0].partition(whole)
        # The copies of `shard_group_size` hold the weights before, and are made again from these.
        self._zero.invalidate_secondary_tensor()
        if whole:
            whole[0].all_gather(whole)

    def cut(self, parameter: Any, whole: Tensor) -> Tensor:
        """See `Partition.cut`."""
        held = self.master(parameter)
        return cut(whole, held.numel()).to(held.device)

    def join(self, parameter: Any, shard: Tensor) -> Tensor:
        """See `Partition.join`."""
        # An offloaded optimizer keeps its shards on the host.
        return join(shard.to(parameter.device), parameter.ds_shape)

    def gradient(self, parameter: Any) -> Tensor | None:
        """See `Partition.gradient`."""
        return safe_get_full_grad(parameter)

    def start_moments(self, steps: int) -> None:
        """See `Partition.start_moments`."""
        _start_moments(self._zero, self._zero.fp32_partitioned_groups_flat, steps)

    def set_moment(self, parameter: Any, moment: str, shard: Tensor) -> None:
        """See `Partition.set_moment`."""
        safe_set_local_optimizer_state(parameter, shard, moment)


class WholeWeights(Partition):
    """Weights of ZeRO-1 and 2: whole on every worker.

    All trained parameters together form one flat tensor, which is cut into equal shards. A worker's shard of a
    parameter is the part of it in the worker's shard of the flat tensor, which may be empty.
    """

    def gathered(self) -> AbstractContextManager[None]:
        """See `Partition.gathered`."""
        return nullcontext()

    def master(self, parameter: Any) -> Tensor:
        """See `Partition.master`."""
        part = parameter._hp_mapping  # noqa: SLF001, DeepSpeed's functions return whole tensors only
        if part is None:
            return torch.empty(0, dtype=torch.float32, device=parameter.device)
        return part.get_hp_fragment().detach()

    def set_master(self, parameter: Any, shard: Tensor) -> None:
        """See `Partition.set_master`."""
        self.master(parameter).copy_(shard)

    def forward_shard(self, parameter: Any) -> Tensor:
        """See `Partition.forward_shard`."""
        return self._part(parameter, parameter.data.view(-1))

    def publish(self) -> None:
        """See `Partition.publish`."""
        if dist.get_world_size() > 1:
            for parameter in self.parameters.values():
                parameter.data.copy_(self.join(parameter, self.forward_shard(parameter)))

    def cut(self, parameter: Any, whole: Tensor) -> Tensor:
        """See `Partition.cut`."""
        # A copy, because a view would keep the whole tensor in memory.
        return self._part(parameter, whole.flatten()).to(self.master(parameter).device, copy=True)

    def join(self, parameter: Any, shard: Tensor) -> Tensor:
        """See `Partition.join`."""
        whole = torch.zeros(parameter.numel(), dtype=shard.dtype, device=parameter.device)
        self._part(parameter, whole).copy_(shard)
        dist.all_reduce(whole)
        return whole.view(parameter.shape)

    def gradient(self, parameter: Any) -> Tensor | None:
        """See `Partition.gradient`."""
        mine = getattr(parameter, "_hp_grad", parameter.grad)
        if mine is None:
            return self.join(parameter, self._averaged(parameter))
        # Stage 1 averages over the workers in the optimizer step only.
        mean = mine.detach().float().clone()
        dist.all_reduce(mean)
        return mean.view(parameter.shape) / dist.get_world_size()

    def start_moments(self, steps: int) -> None:
        """See `Partition.start_moments`."""
        flats = [flat for group in self._zero.optimizer.param_groups for flat in group["params"]]
        _start_moments(self._zero, flats, steps)
        self._zero._hp_optimizer_states_linked = False  # noqa: SLF001, DeepSpeed links parameters to moments once
        self._zero._lazy_init_hp_params_optimizer_state()  # noqa: SLF001

    def set_moment(self, parameter: Any, moment: str, shard: Tensor) -> None:
        """See `Partition.set_moment`."""
        part = parameter._hp_mapping  # noqa: SLF001
        if part is not None:
            part.get_hp_fragment(moment).copy_(shard)

    def _part(self, parameter: Any, flat: Tensor) -> Tensor:
        """Return this worker's part of a flat tensor of the parameter's size, as a view."""
        part = parameter._hp_mapping  # noqa: SLF001
        if part is None:
            return flat[:0]
        place = part.lp_fragment_address
        return flat.narrow(0, place.start, place.numel)

    def _averaged(self, parameter: Any) -> Tensor:
        """Return this worker's shard of the gradient that stage 2 has averaged."""
        part = parameter._hp_mapping  # noqa: SLF001
        if part is None:
            return torch.empty(0, dtype=torch.float32, device=parameter.device)
        flat = getattr(self._zero.averaged_gradients.get(0), "flat_partition", None)
        if flat is not None:
            place = part.hp_fragment_address
            return flat.narrow(0, place.start, place.numel)
        owned = zip(self._zero.params_in_partition[0], self._zero.all_grad_tensors[0], strict=True)
        return next(self._part(parameter, gradient.view(-1)) for other, gradient in owned if other is parameter)


def _start_moments(zero: Any, flats: list[Tensor], steps: int) -> None:
    for flat in flats:
        zero.optimizer.state[flat] = {"step": torch.tensor(float(steps))}
        zero.optimizer.state[flat] |= {moment: torch.zeros_like(flat) for moment in MOMENTS}


def assert_no_hooks(module: nn.Module) -> None:
    """Assert that a module has no forward hooks, before ZeRO-3 adds its own."""
    hooked = [name for name, submodule in module.named_modules() if any(forward_hooks(submodule))]
    assert not hooked, f"`gathered` skips all forward hooks, so only ZeRO's are allowed, got {hooked}"

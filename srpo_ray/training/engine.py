"""DeepSpeed engine: backward pass and optimizer step. `partition` and `sharded_loading` import DeepSpeed too."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import deepspeed
import deepspeed.ops
import torch
from deepspeed.runtime import compiler
from deepspeed.utils import set_z3_leaf_modules
from torch import Tensor, nn

from srpo_ray.config.algorithms.base import Role
from srpo_ray.config.training import TrainingConfig
from srpo_ray.config.zero import zero_stage
from srpo_ray.training.ema import Ema, Shadow
from srpo_ray.training.lr_schedule import learning_rate
from srpo_ray.training.partition import MOMENTS, Partition, ShardedWeights, WholeWeights, assert_no_hooks
from srpo_ray.training.shards import on_cpu, share_out
from srpo_ray.training.zero import zero_config

_LINEAR: Any = torch.nn.functional.linear
"""Torch's own function; only an engine replaces it."""


def _skip_compiled_shared_memory() -> None:
    """Disable a CPU extension that DeepSpeed compiles at start: a killed process leaves its lock file behind forever.

    gloo does the same work.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _skip_compiled_muon() -> None:
    """Import DeepSpeed's Muon without torch's compiler, which takes more than a second of CPU to load.

    DeepSpeed imports Muon for every engine, only to check that AdamW is a different optimizer.
    """
    compiled: Any = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compiled


def restore_linear() -> None:
    """Undo DeepSpeed's replacement of torch's linear function by an earlier engine of this process.

    Models that a run uses before it has an engine then compute the same bits as in a new process.
    """
    torch.nn.functional.linear = _LINEAR


class Engine:
    """Training of a module's trainable parameters by DeepSpeed, on all workers together.

    An optimizer step is any number of rounds of forward passes and one `backward` over their summed loss, followed by
    one `step`. The order forward, forward, backward, backward is an error: ZeRO-3 would silently drop gradients.
    """

    def __init__(
        self,
        module: nn.Module,
        config: TrainingConfig,
        dtype: torch.dtype,
        *,
        roles: frozenset[Role] = frozenset(),
        blocks: tuple[str, ...] = (),
        steps_per_update: int = 1,
    ) -> None:
        """Divide the training of `module` over the initialised process group.

        Args:
            module: The transformer. Parameters without `requires_grad` are not updated; if there are any, the
                trainable ones are adapters of a frozen model.
            config: Optimizer settings, batch sizes and ZeRO stage.
            dtype: Data type of the forward passes (mixed precision). The master weights are always float32.
            roles: Roles besides the policy that `shown` supports. The module's present weights become `reference`.
            blocks: Names of the classes of the module's repeated blocks, for `training.gather_blocks`.
            steps_per_update: Optimizer steps of an update.
        """
        _skip_compiled_shared_memory()
        _skip_compiled_muon()
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        adapters = any(not parameter.requires_grad for parameter in module.parameters())
        stage = zero_stage(config, adapters=adapters)
        if not stage.whole_weights:
            assert_no_hooks(module)
        if config.gather_blocks:
            set_z3_leaf_modules(module, list(blocks))
        # DeepSpeed's annotations match neither its arguments nor its return value.
        initialize: Any = deepspeed.initialize
        self._engine, *_ = initialize(
            model=module,
            model_parameters=trainable,
            config=zero_config(config, dtype, stage.number, sum(parameter.numel() for parameter in trainable)),
            dist_init_required=False,
        )
        kind = WholeWeights if stage.whole_weights else ShardedWeights
        self._partition: Partition = kind(module, self._engine.optimizer)
        self._config = config
        self._steps, self._steps_per_update = 0, steps_per_update
        self._ema = Ema(config.ema, self._shards()) if config.ema else None
        self._old = Shadow(self._shards()) if "old" in roles else None
        self._reference = self._reference_shards(adapters) if "reference" in roles else None
        self._contrast: dict[str, Tensor] | None = None
        self._start: dict[str, Tensor] | None = None
        self._forward_passes = 0
        self._gathered = False
        self._role: Role = "policy"

    def close(self) -> None:
        """Release the weights. DeepSpeed's hooks on gradients would otherwise keep them while the process lives.

        All workers must call, and the engine must not be used afterwards.
        """
        self._engine.destroy()

    @property
    def module(self) -> nn.Module:
        """Wrapped transformer, for calls without gradient."""
        return self._engine.module

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shapes of the trained parameters by name, those of whole tensors at every ZeRO stage."""
        return {name: getattr(each, "ds_shape", each.shape) for name, each in self._partition.parameters.items()}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the transformer: through the engine with gradient, through the bare module without."""
        if not torch.is_grad_enabled():
            return self.module(*args, **kwargs)
        assert not self._gathered, "a forward pass with gradient needs ZeRO's hooks, so it cannot be in `gathered`"
        assert self._role == "policy", f"a forward pass with gradient trains the policy, got role {self._role}"
        self._forward_passes += 1
        return self._engine(*args, **kwargs)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Gather the whole weights on every worker, for many calls without gradient. All workers must enter."""
        if not self._config.gather_for_rollout:
            yield
            return
        with self._partition.gathered():
            self._gathered = True
            try:
                yield
            finally:
                self._gathered = False

    @contextmanager
    def shown(self, role: Role) -> Iterator[None]:
        """Give the module the weights of a role, for calls without gradient.

        Enter it outside `gathered`. All workers must enter. The float32 master weights do not change, and the module's
        weights are restored from them at the end. Without an EMA, role `ema` is the policy.

        Args:
            role: `policy` changes nothing; `reference` and `old` must have been among the engine's roles, `contrast`
                must have been loaded, and `start` must be kept.
        """
        shards = self._shards_of(role)
        if shards is None:
            yield
            return
        self._show(shards)
        self._role = role
        try:
            yield
        finally:
            self._role = "policy"
            self._show(self._shards())

    def _shards_of(self, role: Role) -> Mapping[str, Tensor] | None:
        if role == "policy":
            return None
        if role == "ema":
            return self._ema.shards if self._ema else None
        kept = {
            "reference": self._reference,
            "contrast": self._contrast,
            "old": self._old and self._old.shards,
            "start": self._start,
        }[role]
        assert kept is not None, f"role {role!r} is not among those that the run needs"
        return kept

    def _reference_shards(self, adapters: bool) -> dict[str, Tensor]:
        """Return the current weights. For adapters return zeros, which disable them without changing the calls."""
        held = {name: self._partition.forward_shard(each) for name, each in self._partition.parameters.items()}
        return {name: shard.new_zeros(()) if adapters else shard.clone() for name, shard in held.items()}

    @torch.no_grad()
    def load_contrast(self, weights: Mapping[str, Tensor]) -> None:
        """Load the weights of role `contrast`, which no checkpoint contains. All workers must call.

        They are kept in the data type of the forward passes, one parameter of `weights` at a time.

        Args:
            weights: Whole weights by parameter name, the same on every worker.
        """
        kept = {}
        for name, parameter in self._partition.parameters.items():
            shard = self._partition.cut(parameter, weights[name])
            kept[name] = torch.empty_like(self._partition.forward_shard(parameter)).copy_(shard)
        self._contrast = kept

    @property
    def keeps_start(self) -> bool:
        """True between `keep_start` and `release_start`."""
        return self._start is not None

    def keep_start(self) -> None:
        """Keep a copy of the present weights as role `start`, on the host, in the data type of the forward passes."""
        held = {name: self._partition.forward_shard(each) for name, each in self._partition.parameters.items()}
        self._start = {name: shard.to("cpu", copy=True) for name, shard in held.items()}

    def release_start(self) -> None:
        """Release the copy that `keep_start` has made, if there is one."""
        self._start = None

    def backward(self, loss: Tensor) -> None:
        """Back-propagate the summed loss of all forward passes since the last `backward`.

        Gradients accumulate until `step` and are averaged over the workers.
        """
        assert self._forward_passes, "every backward needs a forward pass after the backward before it"
        self._forward_passes = 0
        self._engine.backward(loss)

    def step(self) -> float:
        """Make one optimizer step, at the learning rate of its update, and clear the gradients.

        The EMA adds the weights at the end of the update.

        Returns:
            Global gradient norm before clipping.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate(self._config, self._steps // self._steps_per_update)
        self._engine.step()
        self._steps += 1
        made, unfinished = divmod(self._steps, self._steps_per_update)
        if self._ema and not unfinished:
            self._ema.add(self._shards(), made - 1)
        norm = self._engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def refresh_old(self, kept: float) -> None:
        """Interpolate the weights of role `old`, if the engine has them, towards the policy's.

        Args:
            kept: Weight of the old ones in the interpolation, in [0, 1].
        """
        if self._old:
            self._old.move(self._shards(), kept)

    @property
    def lr(self) -> float:
        """Learning rate of the last update."""
        return self._engine.optimizer.param_groups[0]["lr"]

    def gradients(self) -> dict[str, Tensor]:
        """Return whole gradients by parameter name, between `backward` and `step`. All workers must call.

        Not available with `training.offload`: DeepSpeed moves gradients to the host only in `step`.
        """
        assert self._config.offload is None, "an offloaded optimizer's gradients are not there before the step"
        return {name: on_cpu(self._partition.gradient(each)) for name, each in self._partition.parameters.items()}

    def weights(self) -> dict[str, Tensor]:
        """Return whole float32 master weights by parameter name, each on one worker's CPU. All workers must call."""
        return share_out((name, self._partition.weights(each)) for name, each in self._partition.parameters.items())

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return whole Adam moments as `<parameter name>/<moment>`, after at least one `step`; placed as `weights`."""
        return share_out(
            (f"{name}/{moment}", self._partition.moment(parameter, moment))
            for name, parameter in self._partition.parameters.items()
            for moment in MOMENTS
        )

    def ema(self) -> dict[str, Tensor]:
        """Return the whole EMA of the weights by parameter name, placed as `weights`; empty without an EMA."""
        return self._whole_shadow(self._ema)

    def old(self) -> dict[str, Tensor]:
        """Return whole weights of role `old` by parameter name, placed as `weights`; empty without that role."""
        return self._whole_shadow(self._old)

    def _whole_shadow(self, shadow: Shadow | None) -> dict[str, Tensor]:
        shards, parameters = shadow.shards if shadow else {}, self._partition.parameters
        return share_out((name, self._partition.join(parameters[name], shard)) for name, shard in shards.items())

    def load(
        self,
        weights: Mapping[str, Tensor],
        optimizer_state: Mapping[str, Tensor],
        updates: int,
        ema: Mapping[str, Tensor],
        old: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Load weights, optimizer state, EMA and old weights of a checkpoint, before the first update.

        Args:
            weights: Results of `weights` on all workers together. The number of workers may differ.
            optimizer_state: Results of `optimizer_state`; empty if no update was made.
            updates: Updates made.
            ema: Results of `ema`; empty without an EMA.
            old: Results of `old`; empty without that role.
        """
        self._steps = updates * self._steps_per_update
        for name, parameter in self._partition.parameters.items():
            self._partition.set_master(parameter, self._partition.cut(parameter, weights[name]))
        self._show(self._shards())
        if self._config.ema:
            self._ema = Ema(self._config.ema, self._cut(ema))
        if self._old:
            self._old = Shadow(self._cut(old or {}))
        if optimizer_state:
            self._load_moments(optimizer_state)

    def load_start(self, start: Mapping[str, Tensor] | None) -> None:
        """Load the weights before the first update, after the last one: from then on, the engine only evaluates.

        Role `ema` is the policy then. All workers must call.

        Args:
            start: Whole weights by parameter name; None disables new adapters.
        """
        for name, parameter in self._partition.parameters.items():
            held = self._partition.master(parameter)
            shard = torch.zeros_like(held) if start is None else self._partition.cut(parameter, start[name]).float()
            self._partition.set_master(parameter, shard)
        self._show(self._shards())
        self._ema = None

    def _load_moments(self, optimizer_state: Mapping[str, Tensor]) -> None:
        self._partition.start_moments(self._steps)
        for name, parameter in self._partition.parameters.items():
            for moment in MOMENTS:
                shard = self._partition.cut(parameter, optimizer_state[f"{name}/{moment}"])
                self._partition.set_moment(parameter, moment, shard)

    def _cut(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cut this worker's shards out of whole tensors, one per trainable parameter."""
        return {name: self._partition.cut(each, whole[name]) for name, each in self._partition.parameters.items()}

    def _shards(self) -> dict[str, Tensor]:
        """Return this worker's shards of the master weights."""
        return {name: self._partition.master(each) for name, each in self._partition.parameters.items()}

    def _show(self, shards: Mapping[str, Tensor]) -> None:
        """Copy shards into the module, in the data type of its forward passes."""
        for name, parameter in self._partition.parameters.items():
            self._partition.forward_shard(parameter).copy_(shards[name])
        self._partition.publish()

"""Contrast of the evaluated weights of a run with those of its base model or of another model, inside a worker."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from srpo_ray.config.algorithms.base import Role
from srpo_ray.models.contrast import Contrast, ContrastWeight, Network
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.training.engine import Engine


@contextmanager
def evaluated_weights(
    engine: Engine, policy: FlowPolicy, weight: ContrastWeight | None, *, other: Role | None, text: float = 1.0
) -> Iterator[None]:
    """Let the policy sample with the weights that evaluations use, and their contrast with another model.

    With a role, the weights of both models are shown and gathered in turn, twice in each step; without one, adapters
    are switched off for a call. All workers must enter, and make the same calls.

    Args:
        engine: Engine of the run.
        policy: Policy of the engine's transformer.
        weight: Weight of the tuned model; None samples with it alone.
        other: Role of the other model's weights; None is the base model of a run with adapters, which are switched off
            for its calls.
        text: Scale of the prompt in the other model's text, see `Contrast`.
    """
    if weight is None or other is None:
        base = Contrast(_without_adapters(engine.module), weight, text) if weight else None
        with engine.shown("ema"), engine.gathered(), _sampling(policy, policy.network, base):
            yield
        return
    contrast = Contrast(_with_weights(engine, other), weight, text)
    with _sampling(policy, _with_weights(engine, "ema"), contrast):
        yield


@contextmanager
def _sampling(policy: FlowPolicy, network: Network, contrast: Contrast | None) -> Iterator[None]:
    before = policy.network, policy.contrast
    policy.network, policy.contrast = network, contrast
    try:
        yield
    finally:
        policy.network, policy.contrast = before


def _with_weights(engine: Engine, role: Role) -> Network:
    def call(**inputs: Any) -> tuple[Tensor]:
        with engine.shown(role), engine.gathered():
            return engine.module(**inputs)

    return call


def _without_adapters(transformer: nn.Module) -> Network:
    def call(**inputs: Any) -> tuple[Tensor]:
        with adapters_scaled_to_zero(transformer):
            return transformer(**inputs)

    return call


@contextmanager
def adapters_scaled_to_zero(transformer: nn.Module) -> Iterator[None]:
    """Add nothing to the outputs of layers with adapters.

    Disabling the adapters would also switch the gradients of their weights, which the engine's hooks hold, and would
    change the sequence of submodules that ZeRO-3 traces.
    """
    from peft.tuners.lora import LoraLayer

    layers = [module for module in transformer.modules() if isinstance(module, LoraLayer)]
    before = [dict(layer.scaling) for layer in layers]
    for layer in layers:
        layer.scaling = dict.fromkeys(layer.scaling, 0.0)
    try:
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling = scaling

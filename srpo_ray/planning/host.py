"""Seconds of the host for a transformer call: Python of torch, diffusers and DeepSpeed, while the GPU waits.

Sources: CPU seconds of one thread, least of five calls, measured at commit 42336f4 on a shared machine with two cores
(x86_64; torch 2.15.0, DeepSpeed 0.19.8, diffusers 0.42.1): the 19 + 38 blocks of FLUX.1 at width 32, so that arithmetic
costs nothing, with ZeRO-3's limits in elements scaled to the width. Nothing of this has been measured beside a GPU.
"""

from dataclasses import dataclass
from typing import Literal

from srpo_ray.config import RunConfig
from srpo_ray.config.model import ModelConfig
from srpo_ray.planning.shapes import depths

Hooks = Literal["none", "blocks", "layers"]
"""Modules that ZeRO hooks in a call, to gather their weights: none at stages 1 and 2."""


@dataclass(frozen=True)
class HostSeconds:
    """Seconds of the measuring machine for one call of FLUX.1's transformer."""

    forward: float
    """Without gradient and without hooks."""
    plain: tuple[float, float]
    """Forward and backward pass in plain torch: with all activations kept, and with gradient checkpointing."""
    zero3: float
    """Forward and backward pass under ZeRO-3 with gradient checkpointing, one loss in flight."""
    zero3_together: float
    """The same for each of two losses in flight."""


ADAPTERS = HostSeconds(forward=0.08, plain=(0.20, 0.52), zero3=2.2, zero3_together=2.9)
"""LoRA: 4699 modules, measured 2.1 to 2.3 s, and 5.6 to 6.0 s for two losses in flight."""
ALL_WEIGHTS = HostSeconds(forward=0.06, plain=(0.22, 0.45), zero3=1.6, zero3_together=1.8)
"""All weights: 1279 modules, measured 1.5 to 1.7 s, and 3.1 to 4.0 s for two losses in flight."""
WHOLE_BLOCKS = 0.69
"""Forward and backward pass of all weights under ZeRO-3 with gradient checkpointing, if it gathers whole blocks."""
MEASURED_BLOCKS = 57
HOST_SPEED = 0.75
"""Seconds of a GPU server's CPU for one second of the measuring machine; 0.55 to 0.9 are expected."""


def gradient_hooks(config: RunConfig) -> Hooks:
    """Return the modules that ZeRO hooks in a call with gradient."""
    if config.zero_stage.whole_weights:
        return "none"
    return "blocks" if config.training.gather_blocks else "layers"


def sampling_hooked(config: RunConfig) -> bool:
    """Return true if ZeRO-3 gathers the weights layer by layer in calls without gradient."""
    return not (config.training.gather_for_rollout or config.zero_stage.whole_weights)


def forward_seconds(model: ModelConfig, *, hooked: bool) -> float:
    """Estimate the host's seconds for one transformer call without gradient.

    Args:
        model: Section `model`.
        hooked: True if ZeRO-3 gathers the weights layer by layer in the call.
    """
    measured = _measured(model)
    # Of the three hooked passes of a checkpointed call, forward, recomputation and backward, this is one.
    hooks = (measured.zero3 - measured.plain[1]) / 3 if hooked else 0.0
    return _scaled(model, measured.forward + hooks)


def gradient_seconds(model: ModelConfig, in_flight: int, hooks: Hooks) -> float:
    """Estimate the host's seconds for one transformer call and its backward pass.

    Args:
        model: Section `model`.
        in_flight: Losses whose graphs are kept alive together.
        hooks: Modules with hooks.
    """
    measured = _measured(model)
    if hooks == "none":
        # Stages 1 and 2 took 0.57 and 0.43 s with adapters, where plain torch took 0.52 s.
        return _scaled(model, measured.plain[model.gradient_checkpointing])
    if hooks == "blocks":
        return _scaled(model, WHOLE_BLOCKS)
    total = measured.zero3 if in_flight == 1 else measured.zero3_together
    if not model.gradient_checkpointing:
        # Two of the three hooked passes; not measured.
        total = measured.plain[0] + (total - measured.plain[1]) * 2 / 3
    return _scaled(model, total)


def _measured(model: ModelConfig) -> HostSeconds:
    return ADAPTERS if model.lora else ALL_WEIGHTS


def _scaled(model: ModelConfig, seconds: float) -> float:
    """Scale seconds of FLUX.1 on the measuring machine to another number of blocks on a GPU server."""
    return seconds * HOST_SPEED * sum(depths(model).values()) / MEASURED_BLOCKS

"""Choice of `model.gradient_checkpointing`: a run with recomputation beside the same run without it."""

from collections.abc import Iterator
from dataclasses import dataclass

from srpo_ray.config import ConfigError, RunConfig, apply
from srpo_ray.planning.plan import Plan, make_plan
from srpo_ray.planning.report import gib

KEY = "model.gradient_checkpointing"


@dataclass(frozen=True)
class Recomputation:
    """Peak of the fullest GPU and seconds of an update: of the run, and of the run with the other setting."""

    on: bool
    """True if the run recomputes the transformer's activations."""
    peak: int
    update_s: float | None
    """None if no speed is given."""
    changes: tuple[str, ...]
    """The other setting, as arguments of the command line; empty if the config check refuses it."""
    other_peak: int
    other_update_s: float | None
    limit: int | None
    """Bytes of one GPU; None if they are not given."""

    def __str__(self) -> str:
        return f"{self._verdict()}{self._seconds()}" if self.changes else f"{KEY}=true stays on: the config needs it"

    def _verdict(self) -> str:
        here, there, changed = gib(self.peak), gib(self.other_peak), " ".join(self.changes)
        if self.limit is None:
            return f"{changed}: peak {there} instead of {here}"
        of, fits = f"{there} of {gib(self.limit)}", self.other_peak <= self.limit
        if self.on:
            return f"{changed} fits too: peak {of}" if fits else f"{KEY}=true is needed: without it {of}"
        if self.peak <= self.limit:
            return f"{KEY} is off and not needed: with it {there} instead of {here}"
        return f"{changed} makes it fit: peak {of}" if fits else f"{changed} is not enough: peak {of}"

    def _seconds(self) -> str:
        if self.update_s is None or self.other_update_s is None:
            return ""
        return f"; an update would take {self.other_update_s:.2f} s instead of {self.update_s:.2f} s"


def compare_recomputation(config: RunConfig, plan: Plan) -> Recomputation | None:
    """Plan a run with the other setting of `model.gradient_checkpointing`. The run itself is not changed.

    If a run does not fit without recomputation, smaller micro-batches that fit and are faster are the other setting.

    Args:
        config: The run.
        plan: Its plan.

    Returns:
        Both plans' peak and seconds; None if the trainers use no GPU.
    """
    if not config.training.num_gpus:
        return None
    on = config.model.gradient_checkpointing
    other, changes = _planned(config, plan, {KEY: not on}), {KEY: not on}
    if on and other and other.fits is False:
        for fewer in _smaller_passes(config):
            smaller = _planned(config, plan, {KEY: False, "training.micro_batch_size": fewer})
            if smaller and smaller.fits and (smaller.update_s or 0.0) <= (plan.update_s or 0.0):
                other, changes = smaller, {KEY: False, "training.micro_batch_size": fewer}
                break
    if other is None:
        return Recomputation(on, plan.peak, plan.update_s, (), plan.peak, None, plan.hardware.limit)
    arguments = tuple(f"{key}={str(value).lower()}" for key, value in changes.items())
    return Recomputation(on, plan.peak, plan.update_s, arguments, other.peak, other.update_s, plan.hardware.limit)


def _planned(config: RunConfig, plan: Plan, changes: dict[str, object]) -> Plan | None:
    """Plan a run with changes; None if the config check refuses them."""
    try:
        return make_plan(apply(config, changes), plan.hardware)
    except ConfigError:
        return None


def _smaller_passes(config: RunConfig) -> Iterator[int]:
    """Generate the smaller numbers of prompts of a forward pass, the largest first."""
    size = config.training.pass_size
    return (fewer for fewer in range(size - 1, 0, -1) if size % fewer == 0)

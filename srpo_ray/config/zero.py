"""ZeRO stage of a run, and buffer sizes of ZeRO: the engine sets them, and the planner uses them.

All sizes are DeepSpeed's defaults, in elements, not bytes. They are set explicitly so that another release of DeepSpeed
cannot change the memory of a run unnoticed.
"""

from typing import NamedTuple

from srpo_ray.config.training import TrainingConfig

REDUCE_BUCKET = 500_000_000
"""Size of the bucket of gradients that are averaged together."""
KEPT_WHOLE = 100_000
"""Maximum size of a parameter that every worker keeps whole instead of sharded, at stage 3."""
LIVE_PARAMETERS = 1_000_000_000
"""Maximum number of gathered elements that stay in memory for their next use in a forward or backward pass."""
PREFETCHED = 50_000_000
"""Maximum number of prefetched elements."""
SUB_GROUP = 1_000_000_000
"""Elements of one worker's shard that the optimizer updates at once."""


class Stage(NamedTuple):
    """ZeRO stage of a run."""

    number: int
    """1 shards the optimizer, 2 also the gradients, 3 also the weights."""
    reason: str
    """Sentence that says what is sharded and why."""

    @property
    def whole_weights(self) -> bool:
        """True if every worker keeps whole weights."""
        return self.number < 3

    def __str__(self) -> str:
        return f"ZeRO stage {self.number}: {self.reason}"


def zero_stage(training: TrainingConfig, *, adapters: bool) -> Stage:
    """Choose the ZeRO stage of a run.

    Args:
        training: Section `training`.
        adapters: True if adapters of a frozen model are trained.
    """
    if training.zero_stage != "auto":
        return Stage(training.zero_stage, "set by training.zero_stage")
    if adapters and not training.offload:
        return Stage(
            2,
            "the trained adapters are small, so each worker keeps the frozen weights whole and gathers nothing;"
            " gradients and optimizer of the adapters are sharded",
        )
    if adapters:
        return Stage(3, f"training.offload={training.offload} saves GPU memory, so the frozen weights are sharded too")
    if training.max_workers == 1 and not training.offload and not training.gather_blocks:
        return Stage(2, "one worker has no other to share weights with, so nothing is gathered")
    return Stage(3, "all weights are trained, so weights, gradients and optimizer are sharded over the workers")

"""Buffer sizes of ZeRO-3, the same for every run: the engine sets them and the planner counts with them.

All are DeepSpeed's defaults, in elements and not in bytes. They are named here so that another release of DeepSpeed
cannot change the memory of a run unnoticed.
"""

REDUCE_BUCKET = 500_000_000
"""Size of the buffer in which gradients wait to be averaged."""
KEPT_WHOLE = 100_000
"""Largest parameter that every worker keeps whole instead of sharded."""
LIVE_PARAMETERS = 1_000_000_000
"""Most gathered elements that stay in memory for their next use in a forward or backward pass."""
PREFETCHED = 50_000_000
"""Most elements that are gathered ahead of their use."""
SUB_GROUP = 1_000_000_000
"""Elements of one worker's shard that the optimizer updates at once."""

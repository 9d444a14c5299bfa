"""Buffer sizes of ZeRO-3, the same for every run: the engine sets them, and the planner uses them.

All are DeepSpeed's defaults, in elements, not bytes. They are set explicitly so that another release of DeepSpeed
cannot change the memory of a run unnoticed.
"""

REDUCE_BUCKET = 500_000_000
"""Size of the bucket of gradients that are averaged together."""
KEPT_WHOLE = 100_000
"""Maximum size of a parameter that every worker keeps whole instead of sharded."""
LIVE_PARAMETERS = 1_000_000_000
"""Maximum number of gathered elements that stay in memory for their next use in a forward or backward pass."""
PREFETCHED = 50_000_000
"""Maximum number of prefetched elements."""
SUB_GROUP = 1_000_000_000
"""Elements of one worker's shard that the optimizer updates at once."""

"""Counters of a scorer, so that a run shows what its rewards cost."""

from dataclasses import dataclass, fields


@dataclass
class ScoringStatistics:
    """What happened since the last `take`."""

    wait_s: float = 0.0
    """Seconds the caller was blocked, waiting for scores."""
    round_trip_s: float = 0.0
    """Seconds from sending a call to seeing its answer, summed over calls; includes the caller's own work between."""
    compute_s: float = 0.0
    """Seconds of the reward models alone, summed over calls."""
    calls: int = 0
    """Answered calls."""
    replays: int = 0
    """Calls that were sent again because a replica was lost."""
    bytes_sent: int = 0
    """Bytes of pixels handed to the object store."""
    slots: int = 0
    """Calls that were given a place in a replica's queue; more than `calls` by those under way and replayed."""
    slot_wait_s: float = 0.0
    """Seconds until there was a place, summed over them."""
    queue_depth: int = 0
    """Calls that waited when they were placed, summed over them."""
    replicas: int = 0
    """Replicas in service, summed over them."""

    def count_slot(self, waited_s: float, queue_depth: int, replicas: int) -> None:
        """Count a call that was given a place, and how full the pool was."""
        self.slots += 1
        self.slot_wait_s += waited_s
        self.queue_depth += queue_depth
        self.replicas += replicas

    def take(self) -> dict[str, float]:
        """The metrics to log, with times per call where that says more; then start again at zero."""
        calls, slots = max(self.calls, 1), max(self.slots, 1)
        metrics = {
            "time/reward_wait": self.wait_s,
            "time/reward_round_trip": self.round_trip_s / calls,
            "time/reward_compute": self.compute_s / calls,
            "time/reward_slot": self.slot_wait_s / slots,
            "pool/calls": float(self.calls),
            "pool/queue_depth": self.queue_depth / slots,
            "pool/replicas": self.replicas / slots,
            "pool/replays": float(self.replays),
            "pool/bytes_sent": float(self.bytes_sent),
        }
        for field in fields(self):
            setattr(self, field.name, field.default)
        return metrics

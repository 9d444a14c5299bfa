"""Counters of a scorer: time, calls, replays and bytes that the rewards of a run take."""

from dataclasses import dataclass, fields


@dataclass
class ScoringStatistics:
    """Counters since the last `take`."""

    wait_s: float = 0.0
    """Seconds in which the caller was blocked, waiting for scores."""
    round_trip_s: float = 0.0
    """Seconds from sending a call to collecting its answer, summed over calls; includes the caller's other work."""
    compute_s: float = 0.0
    """Seconds of computation by the reward models, summed over calls."""
    calls: int = 0
    """Answered calls."""
    replays: int = 0
    """Calls that were replayed because a replica was lost."""
    bytes_sent: int = 0
    """Bytes of pixels put into the object store."""
    slots: int = 0
    """Calls that got a request slot; more than `calls` by those in flight and those replayed."""
    slot_wait_s: float = 0.0
    """Seconds that calls waited for a slot, summed over `slots`."""
    queue_depth: int = 0
    """Queue depth when a call got its slot, summed over `slots`."""
    replicas: int = 0
    """Replicas in service when a call got its slot, summed over `slots`."""

    def count_slot(self, waited_s: float, queue_depth: int, replicas: int) -> None:
        """Count a call that got a request slot, with the state of the pool at that time."""
        self.slots += 1
        self.slot_wait_s += waited_s
        self.queue_depth += queue_depth
        self.replicas += replicas

    def take(self) -> dict[str, float]:
        """Return the metrics to log, most times as means per call, and reset all counters to zero."""
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

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

    def take(self) -> dict[str, float]:
        """The metrics to log, with times per call where that says more; then start again at zero."""
        calls = max(self.calls, 1)
        metrics = {
            "time/reward_wait": self.wait_s,
            "time/reward_round_trip": self.round_trip_s / calls,
            "time/reward_compute": self.compute_s / calls,
            "pool/calls": float(self.calls),
            "pool/replays": float(self.replays),
            "pool/bytes_sent": float(self.bytes_sent),
        }
        for field in fields(self):
            setattr(self, field.name, field.default)
        return metrics

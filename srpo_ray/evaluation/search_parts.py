"""Results of searches whose trials are trained in parts: rungs of a promotion, rounds of a population."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RungResult:
    """Runs of one rung of a search with promotion."""

    updates: int
    """Updates made at the end of the rung, counted from the base model."""
    changes: Mapping[str, Any]
    """Dotted config path -> value, of this rung only."""
    trials: int
    """Trials that were trained in the rung."""
    promoted: int
    """Trials that the next rung continued; 0 in the last rung."""
    made: int
    """Updates that all its runs made in the rung."""
    calls: float
    """Velocity evaluations of the runs in the rung, those with gradient counted three times."""
    best: float | None
    """Best objective at its end."""


@dataclass(frozen=True)
class Member:
    """One trial of a population in one round."""

    name: str
    """Name of its run."""
    values: Mapping[str, Any]
    """Dotted config path -> value in this round."""
    source: str | None
    """Name of the run of the round before whose checkpoint it continued; None in the first round."""
    objective: float | None
    """Objective at the end of the round."""
    copied: bool = False
    """True if it continued another trial's checkpoint, with perturbed values."""


@dataclass(frozen=True)
class RoundResult:
    """Runs of one round of population based training."""

    updates: int
    """Updates made at the end of the round, counted from the base model."""
    members: Sequence[Member]


def lineage(rounds: Sequence[RoundResult], name: str) -> list[Member]:
    """Follow a run of the last round back to the first one: the members whose updates its weights have, in order.

    Args:
        rounds: All rounds.
        name: Name of a run of the last round.
    """
    found: list[Member] = []
    wanted: str | None = name
    for part in reversed(rounds):
        member = next(member for member in part.members if member.name == wanted)
        found.append(member)
        wanted = member.source
    return found[::-1]

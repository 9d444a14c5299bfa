"""Allowance for the starts of an experiment's phases and runs, until they are measured."""

PHASE_S = 30.0
"""Seconds from the beginning of a phase to its first run, in which Ray starts its processes."""
RUN_S = 15.0
"""Seconds that a run takes beside its training: its workers start and end."""


def start_hours(phases: int, turns: int) -> float:
    """Wall-clock hours of starts.

    Args:
        phases: Phases of the experiment, which follow one another.
        turns: Runs that follow one another, over all phases.
    """
    return (phases * PHASE_S + turns * RUN_S) / 3600

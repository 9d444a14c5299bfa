"""Process of a training loop, as the loop sees it."""

from typing import Any, Protocol


class Host(Protocol):
    """Process of a training loop: it passes rows on, and it learns of preemptions."""

    def report(self, row: dict[str, Any]) -> None:
        """Pass the row of an evaluation on. All workers must call."""
        ...

    def leaving_nodes(self) -> frozenset[str]:
        """Return the nodes of the run for which the cluster has announced a preemption. All workers must call."""
        ...


class OwnProcess:
    """Process that trains a run by itself, on the only machine: nobody waits for its rows."""

    def report(self, row: dict[str, Any]) -> None:
        """Do nothing: the rows are in the run's folder."""

    def leaving_nodes(self) -> frozenset[str]:
        """Return nothing: the only machine is not drained."""
        return frozenset()

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

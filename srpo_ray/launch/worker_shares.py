"""Workers of runs that share a cluster: files in which runs ask for workers and their experiment answers."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from srpo_ray.files import read_json, write_text


class WorkerRange(NamedTuple):
    """Numbers of workers that a run can train with."""

    least: int
    most: int


class Share(NamedTuple):
    """Workers of one run."""

    now: int
    """Workers on the nodes that the cluster has; below the run's minimum, the run waits."""
    later: int
    """Workers on all nodes that the autoscaler of the cluster may add; those that the cluster has without one."""


class WorkerShares:
    """Requests of an experiment's runs for workers, and the answers.

    Files connect processes on any node, and they outlive each of them.

    Args:
        folder: Folder of the experiment.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "workers"

    def ask(self, name: str, workers: WorkerRange) -> None:
        """Ask for the workers of a run; called before it is trained."""
        write_text(self._request(name), json.dumps(workers._asdict()) + "\n")

    def asked(self, name: str) -> WorkerRange | None:
        """Return what a run has asked for; None if it has not."""
        file = self._request(name)
        return WorkerRange(**read_json(file)) if file.exists() else None

    def answer(self, shares: Mapping[str, Share]) -> None:
        """Set the shares of all runs that have asked; a run without a share waits."""
        write_text(self._answers, json.dumps({name: share._asdict() for name, share in shares.items()}) + "\n")

    def share(self, name: str, before: Share) -> Share:
        """Return the share of a run.

        Args:
            name: The run.
            before: Share to return as long as the file cannot be read.
        """
        # A network share that does not answer for a moment must not end a run.
        with suppress(OSError):
            answers = read_json(self._answers) if self._answers.exists() else {}
            return Share(**answers[name]) if name in answers else Share(0, 0)
        return before

    @property
    def _answers(self) -> Path:
        return self._folder / "shares.json"

    def _request(self, name: str) -> Path:
        return self._folder / "requests" / f"{name}.json"

"""Progress of a single run: display on the terminal, progress file and live page."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from srpo_ray.config import RunConfig
from srpo_ray.live.follow import Follower
from srpo_ray.live.state import Progress, RunState
from srpo_ray.runs.folder import RunFolder

RunPageWriter = Callable[[RunFolder, Progress], Path]
"""Writes the page of a run in a folder, and returns its path."""


def run_progress(folder: RunFolder, config: RunConfig, page: RunPageWriter | None = None) -> Follower:
    """Context in which a run is followed.

    Args:
        folder: Folder of the run.
        config: The run.
        page: Writer of the live page; None writes none.
    """
    metrics = [f"evaluator/{model.name}" for model in config.evaluation.held_out]
    run = RunState(config.name, config.training.num_updates, "running", seed=config.seed)
    start = Progress.start(config.name, "run", 1, metrics)
    return Follower(folder.path, replace(start, runs=[run]), page and partial(page, folder))

"""Evaluation of the base model beside the start of an experiment's first trials, once for all of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.actor import exit_actor

from srpo_ray.config import RunConfig
from srpo_ray.config.baseline_key import baseline_key, is_cached
from srpo_ray.imports import without_collection
from srpo_ray.launch.capacity import needs_no_worker
from srpo_ray.search.pools import pool_of


class BaseEvaluation:
    """Process that evaluates the base model; a plain class, of which `evaluating_base` makes an actor.

    Its constructor imports the models and encodes the validation prompts, which needs no reward model.

    Args:
        config: A run with one worker on the CPU.
    """

    def __init__(self, config: RunConfig) -> None:
        # The driver imports this module and must not import the models.
        with without_collection():
            from srpo_ray.training.evaluation import encode_evaluated

        self._config = config
        encode_evaluated(config)

    def evaluate(self, pool: str | None) -> None:
        """Write the evaluation to the cache, and end this process.

        Args:
            pool: Name of the run's reward pool; None scores in this process.
        """
        from srpo_ray.training.evaluation import evaluate_base_model

        evaluate_base_model(self._config, pool)
        exit_actor()


def shared_base(runs: Sequence[RunConfig], folder: Path) -> RunConfig | None:
    """Choose a run whose evaluation of the base model serves all.

    Args:
        runs: Runs that may come first.
        folder: Folder of the experiment.

    Returns:
        A run with control words if there is one, because it scores the images for all sets of words; None if the runs
        evaluate different base models, if the cache or a run needs more than one process on the CPU, or if a run of the
        experiment has made the evaluation before.
    """
    if not runs or len({baseline_key(run) for run in runs}) > 1 or any(folder.glob("trials/*/evaluations.jsonl")):
        return None
    plain = all(needs_no_worker(run) and not run.model.compile and run.rollout.base is None for run in runs)
    if not plain or not is_cached(runs[0]):
        return None
    return next((run for run in runs if run.trained_words), runs[0])


@contextmanager
def evaluating_base(run: RunConfig | None) -> Iterator[Callable[[Mapping[str, str | None]], None]]:
    """Evaluate the base model in a process of its own, with the resources of one trial.

    The process starts at once, so that it imports the models while the reward pool loads its own. Trials that need the
    evaluation before it is complete wait for it, see `baseline_evaluation`. If it fails, the first trial that needs it
    evaluates the base model itself, and raises what is wrong.

    Args:
        run: Run from `shared_base`; None evaluates nothing.

    Yields:
        Function that begins the evaluation as soon as there are reward pools: key of a set of reward models -> pool.
    """
    if run is None:
        yield lambda _: None
        return
    resources = dict(run.training.worker_resources)
    cpus: Any = resources.pop("CPU")
    # Ray gives it as many threads as a trial, on which the bits of an evaluation depend.
    actor: Any = ray.remote(num_cpus=cpus, resources=resources)(BaseEvaluation).remote(run)
    # Ray would print the error of a call whose result nothing refers to.
    calls: list[object] = []
    try:
        yield lambda pools: calls.append(actor.evaluate.remote(pool_of(pools, run)))
    finally:
        ray.kill(actor)

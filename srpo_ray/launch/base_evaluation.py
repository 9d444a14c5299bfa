"""Evaluation of the base model in the process of a run, before its reward pool is open."""

from contextlib import suppress

from srpo_ray.config import RunConfig
from srpo_ray.config.baseline_settings import is_cached
from srpo_ray.errors import RunFailedError
from srpo_ray.runs.folder import RunFolder


def is_evaluated_ahead(config: RunConfig, folder: RunFolder, pool: str | None) -> bool:
    """Test whether a run on the CPU begins with an evaluation whose images can be sampled while a pool loads.

    Args:
        config: The run.
        folder: Its folder, which may not exist yet.
        pool: Name of its reward pool; None without one.
    """
    if pool is None or folder.evaluations.exists():
        return False
    plain = not config.model.compile and config.rollout.base is None and config.start_from is None
    return plain and is_cached(config)


def evaluate_base_ahead(config: RunConfig, folder: RunFolder, pool: str | None, *, alone: bool = False) -> None:
    """Write the evaluation of the base model to the cache while the reward pool loads its models.

    Its images need no rewards. Runs that share the evaluation sample them together, and one of them scores them.
    What is wrong with a model is raised by the run itself, which then evaluates again.

    Args:
        config: A run that this process trains on the CPU, after `load_ahead`.
        folder: Its folder, which may not exist yet.
        pool: Name of its reward pool; without one, nothing is evaluated ahead.
        alone: True if no other run computes on this machine.
    """
    if is_evaluated_ahead(config, folder, pool):
        from srpo_ray.training.evaluation import encode_evaluated, evaluate_base_model

        with suppress(ValueError, RunFailedError):
            encode_evaluated(config)
            evaluate_base_model(config, pool, alone=alone)

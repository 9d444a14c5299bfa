"""Images of the base model's evaluation, sampled in the process of a run before its reward pool is open."""

from contextlib import suppress

from srpo_ray.config import RunConfig
from srpo_ray.config.baseline_settings import is_cached
from srpo_ray.errors import RunFailedError
from srpo_ray.rewards.pool.opening import Opening
from srpo_ray.runs.folder import RunFolder


def is_sampled_ahead(config: RunConfig, folder: RunFolder) -> bool:
    """Test whether a run on the CPU evaluates the base model with images that can be sampled while a pool loads.

    Args:
        config: The run.
        folder: Its folder, which may not exist yet.
    """
    plain = not config.model.compile and config.rollout.base is None and config.start_from is None
    return plain and is_cached(config) and not folder.evaluations.exists()


def sample_base_ahead(config: RunConfig, folder: RunFolder, pool: str | None, *, alone: bool = False) -> None:
    """Sample images for the evaluation of the base model while the reward pool loads its models.

    The images need no rewards. Runs that share the evaluation sample them together. The run itself samples the others,
    and scores all, after its first update. What is wrong with a model is raised by the run itself too.

    Args:
        config: A run that this process trains on the CPU, after `load_ahead`.
        folder: Its folder, which may not exist yet.
        pool: Name of its reward pool; without one, nothing is sampled ahead.
        alone: True if no other run computes on this machine.
    """
    if pool is None or not is_sampled_ahead(config, folder):
        return
    from srpo_ray.training.evaluation import encode_evaluated, sample_base_model

    opening = Opening([pool])
    with suppress(ValueError, RunFailedError):
        # This only sends the question. So a pool that is open by then has answered before the first batch.
        opening.is_complete()
        encode_evaluated(config)
        sample_base_model(config, opening.is_complete, alone=alone)

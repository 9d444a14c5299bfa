"""Checks of the options that make rollouts cheaper against the other sections."""

from typing import TYPE_CHECKING

from srpo_ray.config.algorithms.registry import types_that

if TYPE_CHECKING:
    from srpo_ray.config.run import RunConfig


def check_batch(config: "RunConfig") -> None:
    """Check `rollout.batch_size`.

    Raises:
        ValueError: If micro-batches do not fill it, or nothing is sampled.
    """
    size, each = config.rollout.batch_size, config.sampled_per_pass
    if size and config.samples_rollouts and (not each or size % each):
        raise ValueError(
            f"expected rollout.batch_size to be a multiple of the {each} images that the trained model samples for"
            f" a forward pass of {config.training.pass_size} prompts (training.micro_batch_size, or a worker's share"
            f" of training.batch_size), got {size}; choose a multiple, lower training.micro_batch_size, or remove"
            " rollout.batch_size"
        )
    if size and not config.data.reads_prompts:
        raise ValueError(
            f"expected no rollout.batch_size with data.image_ratio=1, got {size}; every sample is a real image, so"
            " nothing is sampled: remove it or lower the ratio"
        )


def check_block_cache(config: "RunConfig") -> None:
    """Check `rollout.cache_threshold`.

    Raises:
        ValueError: If the algorithm needs exact rollouts, workers would gather different blocks, or nothing is sampled.
    """
    threshold = config.rollout.cache_threshold
    if threshold is None:
        return
    if not config.algorithm.needs.accepts_approximate_rollouts:
        others = types_that(lambda needs: needs.accepts_approximate_rollouts)
        raise ValueError(
            f"expected no rollout.cache_threshold with algorithm.type={config.algorithm.type}, got {threshold:g}; its"
            " loss compares the probabilities of a rollout's steps with those of the whole transformer, so remove"
            f" it or choose {others}"
        )
    if not config.data.reads_prompts:
        raise ValueError(
            f"expected no rollout.cache_threshold with data.image_ratio=1, got {threshold:g}; every sample is a"
            " real image, so nothing is sampled: remove it or lower the ratio"
        )
    if not config.training.gather_for_rollout and not config.zero_stage.whole_weights and config.samples_rollouts:
        raise ValueError(
            "expected training.gather_for_rollout=true with rollout.cache_threshold, got false; workers skip"
            " different blocks, so they cannot gather the blocks' weights together one by one: set it to true, or"
            " remove rollout.cache_threshold"
        )
    group = config.training.context_parallel
    if group > 1 and config.samples_rollouts:
        raise ValueError(
            f"expected training.context_parallel=1 with rollout.cache_threshold, got {group}; each worker of a group"
            " would decide about its own tokens, and workers that skip different blocks would wait for each other:"
            " remove one of the two"
        )

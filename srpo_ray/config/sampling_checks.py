"""Checks of a run across its sections: sampled images, their sizes and batches.

Each function raises a `ValueError` that says what was expected, what came and what to do.
"""

from srpo_ray.config.algorithms.registry import types_that
from srpo_ray.config.rollout_checks import (
    check_batch,
    check_block_cache,
    check_no_batch,
    check_rollout_base,
    check_sizes_of_run,
    check_some_sampled,
)
from srpo_ray.config.run_sections import RunSections


def check_rollout_source(run: RunSections) -> None:
    """Refuse kept or base-model images with an on-policy algorithm."""
    rollout = run.rollout
    changed = [f"source={rollout.source}"] if rollout.source != "policy" else []
    changed += [f"reuse={rollout.reuse}"] if rollout.reuse > 1 else []
    if changed and not run.algorithm.inputs.accepts_clean_images:
        others = types_that(lambda needs: needs.accepts_clean_images)
        raise ValueError(
            f"expected rollout.source=policy and rollout.reuse=1 with algorithm.type={run.algorithm.type}, got"
            f" {', '.join(changed)}; it needs on-policy rollouts for every update, so remove these"
            f" keys or choose {others}"
        )


def check_rollout_reuse(run: RunSections) -> None:
    """Refuse settings of sampled images where none is sampled, or where they do nothing."""
    rollout = run.rollout
    if rollout.reuse > 1 and not run.samples_rollouts:
        kind = "base-model" if rollout.source == "base_model" else "real"
        raise ValueError(
            f"expected rollout.reuse=1 with {kind} images only, got {rollout.reuse}; no image is sampled during"
            " training, so reuse would save nothing and only repeat each batch: remove it"
        )
    if rollout.source == "base_model" and not run.data.reads_prompts:
        raise ValueError(
            "expected rollout.source=policy with data.image_ratio=1, got base_model; every sample is a real image,"
            " so nothing is sampled: remove rollout.source or lower the ratio"
        )
    if rollout.images_per_prompt > 1 and rollout.source == "policy":
        raise ValueError(
            f"expected rollout.images_per_prompt=1 with rollout.source=policy, got {rollout.images_per_prompt};"
            " the trained model samples new images in training, so remove it or set rollout.source to base_model"
        )


def check_sizes(run: RunSections) -> None:
    """Refuse a forward pass that is too small for the loss, and what does not work with images of several sizes."""
    several = run.model.sizes is not None
    run.algorithm.check_micro_batch(run.training.micro_batch_size, several_sizes=several)
    if several:
        check_sizes_of_run(run.rollout, run.training, run.evaluation)


def check_sampler_steps(run: RunSections) -> None:
    """Refuse an algorithm that does not fit the number of sampling steps."""
    run.algorithm.check_rollout(run.rollout.num_steps)


def check_cheaper_rollouts(run: RunSections) -> None:
    """Refuse batches, caches and base-model rollouts that the run cannot use."""
    rollout, training, sampled = run.rollout, run.training, run.samples_rollouts
    if not run.data.reads_prompts and not run.algorithm.samples_for_images:
        check_some_sampled(rollout)
    if run.algorithm.total_calls(rollout.num_steps).rollout_parts > 1:
        check_no_batch(rollout)
    check_batch(rollout, training, run.sampled_per_pass if sampled else None)
    check_block_cache(rollout, training, run.algorithm, run.zero_stage, by_policy=sampled)
    check_rollout_base(rollout, run.model, training, run.algorithm, run.zero_stage)

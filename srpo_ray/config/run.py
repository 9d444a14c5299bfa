"""Config of one training run, and the order of the checks across its sections."""

from typing import Self

from pydantic import model_validator

from srpo_ray.config import engine_checks, input_checks, sampling_checks
from srpo_ray.config.run_sections import RunSections

CHECKS = (
    input_checks.check_credentials,
    input_checks.check_rewards_read_text,
    input_checks.check_word_set,
    sampling_checks.check_rollout_source,
    sampling_checks.check_rollout_reuse,
    sampling_checks.check_sizes,
    sampling_checks.check_sampler_steps,
    input_checks.check_comparisons,
    sampling_checks.check_cheaper_rollouts,
    input_checks.check_images,
    input_checks.check_pairs,
    input_checks.check_rewards,
    input_checks.check_data_anchor,
    engine_checks.check_average,
    engine_checks.check_contrast,
    engine_checks.check_shard_groups,
    engine_checks.check_base,
    engine_checks.check_gather_blocks,
    engine_checks.check_compile,
    engine_checks.check_context_parallel,
    input_checks.check_image_ratio,
    engine_checks.check_elastic,
    engine_checks.check_one_worker_per_gpu,
    input_checks.check_reward_names,
    input_checks.check_held_out,
)
"""Checks across the sections: the first that fails is reported."""


class RunConfig(RunSections):
    """Config of one training run, with its sections in the order of the stages."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for check in CHECKS:
            check(self)
        return self

"""Checks of the options that make rollouts cheaper against the other sections."""

from srpo_ray.config.algorithms.registry import AlgorithmConfig, types_that
from srpo_ray.config.evaluation import EvaluationConfig
from srpo_ray.config.model import ModelConfig, RolloutConfig
from srpo_ray.config.training import TrainingConfig
from srpo_ray.config.zero import Stage


def check_batch(rollout: RolloutConfig, training: TrainingConfig, sampled_per_pass: int | None) -> None:
    """Check `rollout.batch_size`.

    Args:
        rollout: Section `rollout`.
        training: Section `training`.
        sampled_per_pass: Images that the trained model samples for a micro-batch; None if it samples none in training.

    Raises:
        ValueError: If micro-batches do not fill it.
    """
    size, each = rollout.batch_size, sampled_per_pass
    if size and each is not None and (not each or size % each):
        raise ValueError(
            f"expected rollout.batch_size to be a multiple of the {each} images that the trained model samples for"
            f" a forward pass of {training.pass_size} prompts (training.micro_batch_size, or a worker's share"
            f" of training.batch_size), got {size}; choose a multiple, lower training.micro_batch_size, or remove"
            " rollout.batch_size"
        )


def check_no_batch(rollout: RolloutConfig) -> None:
    """Check that `rollout.batch_size` is unset where a group is sampled in parts.

    Raises:
        ValueError: If it is set.
    """
    if rollout.batch_size is not None:
        raise ValueError(
            f"expected no rollout.batch_size with algorithm.images_per_pass, got {rollout.batch_size}; one samples the"
            " images of several micro-batches at once, the other divides those of one: remove one of the two"
        )


def check_sizes_of_run(rollout: RolloutConfig, training: TrainingConfig, evaluation: EvaluationConfig) -> None:
    """Check that a run can train on images of several sizes: those of a transformer call have one size.

    Args:
        rollout: Section `rollout`.
        training: Section `training`.
        evaluation: Section `evaluation`.

    Raises:
        ValueError: If prompts of different sizes would share a call, images of the base model are kept, or
            the size of the evaluation is not set.
    """
    if training.pass_size != 1:
        raise ValueError(
            "expected training.micro_batch_size=1 with model.sizes, got forward passes of"
            f" {training.pass_size} prompts, which may have different sizes; set it to 1"
        )
    if rollout.batch_size is not None:
        raise ValueError(
            f"expected no rollout.batch_size with model.sizes, got {rollout.batch_size}; the images of a call have one"
            " size, so the prompts of an update cannot be sampled together: remove it"
        )
    if rollout.source != "policy":
        raise ValueError(
            f"expected rollout.source=policy with model.sizes, got {rollout.source}; images of the base model are kept"
            " in one size, so remove it, or give one size in model.resolution"
        )
    if evaluation.resolution is None:
        raise ValueError(
            "expected evaluation.resolution with model.sizes, got none; evaluations have one size, so choose it"
        )


def check_some_sampled(rollout: RolloutConfig) -> None:
    """Check that nothing is set for rollouts of a run that trains on real images only.

    Raises:
        ValueError: If `rollout.batch_size`, `rollout.cache_threshold` or `rollout.base` is set.
    """
    for key in ("batch_size", "cache_threshold", "base"):
        value = getattr(rollout, key)
        if value is not None:
            raise ValueError(
                f"expected no rollout.{key} with data.image_ratio=1, got {value}; every sample is a real image, so"
                " nothing is sampled: remove it or lower the ratio"
            )


def check_block_cache(
    rollout: RolloutConfig, training: TrainingConfig, algorithm: AlgorithmConfig, stage: Stage, *, by_policy: bool
) -> None:
    """Check `rollout.cache_threshold`.

    Args:
        rollout: Section `rollout`.
        training: Section `training`.
        algorithm: Section `algorithm`.
        stage: ZeRO stage of the run.
        by_policy: True if the trained model samples images in training.

    Raises:
        ValueError: If the algorithm needs exact rollouts, or workers would gather different blocks.
    """
    threshold = rollout.cache_threshold
    if threshold is None:
        return
    if not algorithm.inputs.accepts_approximate_rollouts:
        others = types_that(lambda needs: needs.accepts_approximate_rollouts)
        raise ValueError(
            f"expected no rollout.cache_threshold with algorithm.type={algorithm.type}, got {threshold:g}; its"
            " loss compares the probabilities of a rollout's steps with those of the whole transformer, so remove"
            f" it or choose {others}"
        )
    if not training.gather_for_rollout and not stage.whole_weights and by_policy:
        raise ValueError(
            "expected training.gather_for_rollout=true with rollout.cache_threshold, got false; workers skip"
            " different blocks, so they cannot gather the blocks' weights together one by one: set it to true, or"
            " remove rollout.cache_threshold"
        )
    group = training.context_parallel
    if group > 1 and by_policy:
        raise ValueError(
            f"expected training.context_parallel=1 with rollout.cache_threshold, got {group}; each worker of a group"
            " would decide about its own tokens, and workers that skip different blocks would wait for each other:"
            " remove one of the two"
        )


def check_rollout_base(
    rollout: RolloutConfig, model: ModelConfig, training: TrainingConfig, algorithm: AlgorithmConfig, stage: Stage
) -> None:
    """Check `rollout.base`.

    Args:
        rollout: Section `rollout`.
        model: Section `model`.
        training: Section `training`.
        algorithm: Section `algorithm`.
        stage: ZeRO stage of the run.

    Raises:
        ValueError: If the copies cannot be made or used, or would gain nothing.
    """
    base = rollout.base
    if base is None:
        return
    if model.lora is None:
        raise ValueError(
            f"expected model.lora with rollout.base={base}, got none; trained weights change with every update, and"
            " only frozen ones have a copy, so set model.lora to {} to train adapters, or remove rollout.base"
        )
    if model.base:
        raise ValueError(
            f"expected no model.base with rollout.base={base}, got {model.base}; the copy would be of weights that are"
            " quantised already, so remove one of the two"
        )
    if not stage.whole_weights:
        raise ValueError(
            f"expected ZeRO stage 1 or 2 with rollout.base={base}, got {stage.number} ({stage.reason}); a worker"
            " copies whole weights, so remove training.zero_stage and training.offload, or remove rollout.base"
        )
    if rollout.source != "policy":
        raise ValueError(
            f"expected rollout.source=policy with rollout.base={base}, got {rollout.source}; the base model's images"
            " are sampled once, with its own weights, so remove one of the two"
        )
    if not algorithm.inputs.accepts_approximate_rollouts:
        others = types_that(lambda needs: needs.accepts_approximate_rollouts)
        raise ValueError(
            f"expected no rollout.base with algorithm.type={algorithm.type}, got {base}; its loss compares the"
            f" probabilities of a rollout's steps with those of the training weights, so remove it or choose {others}"
        )
    if training.context_parallel > 1:
        raise ValueError(
            f"expected training.context_parallel=1 with rollout.base={base}, got {training.context_parallel}; the"
            " exchange of tokens between workers is bound to the original blocks, so remove one of the two"
        )

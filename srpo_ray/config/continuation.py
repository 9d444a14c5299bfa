"""Conditions under which a run continues from a checkpoint of another run, and what the two must share."""

from typing import Any

from srpo_ray.config.run import RunConfig

_OTHER_EVALUATION_KEYS = {"interval", "hacking", "test", "choose", "objective", "cache", "resolution"}
"""Keys of `evaluation` that change no score, and the size, which is compared as that of `model`."""


def run_identity(config: RunConfig) -> dict[str, Any]:
    """Return the config values that a checkpoint and the run that resumes from it must share, by config key.

    Model and adapters determine the tensors. Seed, batch and algorithm determine the random draws of an update: every
    draw is addressed by them, so a checkpoint stores no generator state.
    """
    return {
        "model.path": config.model.path,
        "model.lora": config.model.lora.identity if config.model.lora else None,
        "algorithm.type": config.algorithm.type,
        "seed": config.seed,
        "training.batch_size": config.training.batch_size,
    }


def check_continues(before: RunConfig, after: RunConfig, updates: int) -> None:
    """Check that a run can continue from a checkpoint of another.

    The learning rate, the resolution, the number of updates, the source of rollouts, rewards and the evaluation may
    differ: no tensor of a checkpoint depends on them.

    Args:
        before: Run that wrote the checkpoint.
        after: Run that continues from it.
        updates: Updates made at the checkpoint.

    Raises:
        ValueError: If it cannot.
    """
    shared = ({**run_identity(each), "training.ema": each.training.ema is not None} for each in (before, after))
    old, new = shared
    differing = [key for key in old if old[key] != new[key]]
    if differing:
        key = differing[0]
        raise ValueError(
            f"expected the {key} of the run that it continues from, {_text(old[key])}, got {_text(new[key])}; weights"
            f" and optimizer state belong to these keys: {', '.join(old)}. Keep them, or train without the checkpoint"
        )
    reuse = max(before.rollout.reuse, after.rollout.reuse)
    for run in (before, after):
        if updates % run.rollout.reuse:
            raise ValueError(
                f"expected a checkpoint at a multiple of rollout.reuse={reuse} updates, between two batches of"
                f" rollouts, got {updates}; change the number of updates or rollout.reuse"
            )
    if after.training.num_updates <= updates:
        raise ValueError(
            f"expected training.num_updates above {updates}, the updates made at the checkpoint that the run continues"
            f" from, got {after.training.num_updates}; the number counts the updates of both runs: raise it"
        )


def evaluated_alike(before: RunConfig, after: RunConfig) -> bool:
    """Test that the evaluations of two runs compare: same prompts, noise, sampler, models and control words."""
    return _of_evaluation(before) == _of_evaluation(after)


def tested_alike(before: RunConfig, after: RunConfig) -> bool:
    """Test that the evaluations of two runs on test prompts compare."""
    return evaluated_alike(before, after) and _of_test(before) == _of_test(after)


def _of_evaluation(config: RunConfig) -> list[Any]:
    """Return the values that the scores of the same weights depend on."""
    evaluation = config.evaluation
    return [
        config.model_at(evaluation).model_dump(mode="json"),
        evaluation.model_dump(mode="json", exclude=_OTHER_EVALUATION_KEYS),
        [model.model_dump(mode="json") for model in config.rewards.models],
        config.rewards.normalize,
        config.trained_words,
        config.rollout.shift,
    ]


def _of_test(config: RunConfig) -> list[Any]:
    """Return the values that the scores of the same weights on test prompts depend on, besides `_of_evaluation`."""
    evaluation = config.evaluation
    if evaluation.test is None or evaluation.tested is None:
        return []
    test = evaluation.test.model_dump(mode="json", exclude={"resolution"})
    return [test, config.model_at(evaluation.tested).size]


def _text(value: Any) -> str:
    return "none" if value is None else str(value)

"""Settings that determine the evaluation of the model before training: runs with equal ones share it."""

from typing import Any

from srpo_ray.config.evaluation import EvaluationConfig
from srpo_ray.config.run import RunConfig

_OTHER_MODEL_KEYS = {"path", "lora", "decoder", "gradient_checkpointing", "vae_checkpointing", "sizes"}
"""Keys of `model` that change no image of the base model: its content is hashed, new adapters begin with an output of
0, and the other decoder, checkpointing and sizes concern training passes."""
_OTHER_KEYS = {
    "cache",
    "prompts",
    "num_prompts",
    "num_steps",
    "interval",
    "hacking",
    "test",
    "choose",
    "objective",
    "rl_guidance",
    "contrast_text",
    "contrast_with",
}
"""Keys of `evaluation` that change no score of the base model: the texts and the sigma grid are in the key instead."""
_SIZE = {"resolution"}
"""Key of `evaluation` that stands in the key as that of `model`, so that a run of that size shares the evaluation."""
_POOL_KEYS = {"num_gpus", "num_threads", "micro_batch_size", "wire_dtype"}


def baseline_settings(config: RunConfig, evaluation: EvaluationConfig) -> dict[str, Any]:
    """List the settings that an evaluation of the base model depends on; texts, sigmas and weights are not among them.

    Args:
        config: The run.
        evaluation: Its section `evaluation`, or that of its test.
    """
    lora = config.model.lora
    start = {"lora": lora.model_dump(mode="json")} if lora and lora.start_from else {}
    return {
        **start,
        "model settings": config.model_at(evaluation).model_dump(mode="json", exclude=_OTHER_MODEL_KEYS),
        "evaluation": evaluation.model_dump(mode="json", exclude=_OTHER_KEYS | _SIZE),
        "rewards": [model.model_dump(mode="json") for model in config.rewards.models],
        "factors": dict(config.rewards.factors),
        "in process": config.rewards.in_process,
        "pool": config.rewards.pool.model_dump(mode="json", include=_POOL_KEYS),
        "context_parallel": config.training.context_parallel,
    }


def is_cached(config: RunConfig) -> bool:
    """True unless the cache is off, or a reward is a Python class or a server: its scores depend on more than files."""
    models = (*config.rewards.models, *config.evaluation.held_out)
    return config.evaluation.cache and all(model.repeatable for model in models)

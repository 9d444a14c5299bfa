"""Changes of a config that save memory. Each is planned again, so its saving is computed and not guessed."""

import json
from collections.abc import Iterator
from functools import partial
from math import gcd

from srpo_ray.config import RunConfig, apply
from srpo_ray.config.algorithms.group import GroupSection
from srpo_ray.config.algorithms.preference import PreferenceConfig
from srpo_ray.config.count import largest
from srpo_ray.config.size import ImageSize
from srpo_ray.models.sizes import size_step
from srpo_ray.planning.devices import replicas_beside_a_trainer
from srpo_ray.planning.plan import Advice, Plan, make_plan
from srpo_ray.planning.shapes import depths, part_config

Changes = dict[str, object]

WORTH_SAYING = 0.01
"""Smallest saving that is worth reporting, as a share of the peak."""
_LARGE_IMAGE = 512 * 512
"""Pixels from which smaller images are proposed."""


def advise(config: RunConfig, plan: Plan) -> list[Advice]:
    """Find changes that lower the peak of the fullest GPU.

    Args:
        config: The run.
        plan: Its plan.

    Returns:
        Changes, the largest saving first. Empty if the trainers use no GPU.
    """
    if not config.training.num_gpus:
        return []
    found = []
    for changes, why in candidates(config):
        try:
            changed = make_plan(apply(config, changes), plan.hardware)
        except ValueError:
            # The changed section contradicts another one, or the model.
            continue
        saving = plan.peak - changed.peak
        if saving > WORTH_SAYING * plan.peak:
            overrides = tuple(f"{key}={_yaml(value)}" for key, value in changes.items())
            found.append(Advice(overrides, why, changed.peak, saving, changed.fits))
    return sorted(found, key=lambda advice: advice.saving, reverse=True)


def candidates(config: RunConfig) -> Iterator[tuple[Changes, str]]:
    """Generate the changes that may save memory; planning each of them shows whether it does."""
    yield from _model_candidates(config)
    yield from _training_candidates(config)
    pool = config.rewards.pool
    if pool.micro_batch_size > 1:
        yield {"rewards.pool.micro_batch_size": pool.micro_batch_size // 2}, "fewer images at once in a replica"
    if replicas_beside_a_trainer(config):
        apart: Changes = {"rewards.pool.num_gpus": 1, "training.num_gpus": 1}
        yield apart, "rewards on a GPU of their own; costs that GPU"
    if config.evaluation.batch_size > 1:
        half = config.evaluation.batch_size // 2
        yield {"evaluation.batch_size": half}, "fewer images at once in evaluations"


def _model_candidates(config: RunConfig) -> Iterator[tuple[Changes, str]]:
    model = config.model
    if model.dtype == "float32":
        yield {"model.dtype": "bfloat16"}, "forward and backward passes in bfloat16"
    if not model.gradient_checkpointing and depths(model):
        yield {"model.gradient_checkpointing": True}, "recompute the transformer's activations; a third more time"
    if not model.vae_checkpointing:
        yield {"model.vae_checkpointing": True}, "recompute the decoder's activations"
    if model.lora is None:
        yield {"model.lora.rank": 32}, "train adapters; needs a 10 to 50 times larger learning rate"
    elif model.base != "nf4":
        yield {"model.base": "nf4"}, "frozen weights of 4 bits; images and gradients change slightly"
    if model.size.num_pixels >= _LARGE_IMAGE:
        step = size_step(partial(part_config, model.path))
        smaller = ImageSize(*(max(step, side * 3 // 4 // step * step) for side in model.size))
        yield {"model.resolution": smaller.resolution}, "smaller images"
    if config.model_at(config.evaluation).size.num_pixels > model.size.num_pixels:
        yield {"evaluation.resolution": None}, "evaluations at the size of the training"


def _training_candidates(config: RunConfig) -> Iterator[tuple[Changes, str]]:
    training = config.training
    micro = training.pass_size
    if micro > 1:
        fewer = max(size for size in range(1, micro) if micro % size == 0)
        yield {"training.micro_batch_size": fewer}, "fewer prompts per forward pass; the gradients stay the same"
        if fewer > 1:
            yield {"training.micro_batch_size": 1}, "one prompt per forward pass; the gradients stay the same"
    if config.rollout_passes > 1:
        yield {"rollout.batch_size": None}, "rollouts of one micro-batch at a time; the images stay the same"
    algorithm = config.algorithm
    if isinstance(algorithm, GroupSection) and algorithm.passes_per_prompt < algorithm.group_size:
        yield {"algorithm.images_per_pass": 1}, "one image of a group per forward pass; the gradients stay the same"
    if isinstance(algorithm, PreferenceConfig) and algorithm.rollout_parts < algorithm.images_per_prompt:
        alone: Changes = {"algorithm.images_per_pass": 1, "rollout.batch_size": None}
        yield alone, "one image of a group sampled at a time; the images stay the same"
    if config.losses_in_flight != 1:
        yield {"training.losses_in_flight": 1}, "one graph at a time; the gradients stay the same"
    if config.zero_stage.whole_weights and training.max_workers > 1:
        yield {"training.zero_stage": 3}, "shard the frozen weights too; much slower gradient steps"
    if training.gather_for_rollout:
        yield {"training.gather_for_rollout": False}, "gather layer by layer in rollouts; more traffic"
    shared = 2 * training.context_parallel
    if not training.elastic and training.max_workers % shared == 0:
        together: Changes = {"training.context_parallel": shared, "training.micro_batch_size": micro}
        yield together, f"{shared} workers share the tokens of each image; more traffic"
    workers = 2 * training.max_workers
    if training.batch_size % workers == 0:
        wider: Changes = {"training.num_workers": workers}
        if training.micro_batch_size and training.batch_size // workers % training.micro_batch_size:
            wider["training.micro_batch_size"] = gcd(training.batch_size // workers, training.micro_batch_size)
        if replicas_beside_a_trainer(config):
            # Each further GPU needs a replica too, as Ray places two of such workers on a GPU without one.
            wider["rewards.pool.num_replicas"] = max(workers, largest(config.rewards.pool.num_replicas))
        yield wider, "shard over twice the GPUs"
    if training.offload is None:
        yield {"training.offload": "optimizer"}, "optimizer in the host's memory; slower updates"
    if training.offload != "weights":
        yield {"training.offload": "weights"}, "optimizer and weights in the host's memory; much slower"
    if training.ema and "ema" not in algorithm.roles:
        yield {"training.ema": None}, "no the EMA of the weights"


def _yaml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)

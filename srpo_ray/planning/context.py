"""Context parallelism in a plan: sizes that a group of workers must divide, cost of a worker's part, and traffic."""

import json
from typing import NamedTuple

from srpo_ray.config import RunConfig
from srpo_ray.config.model import ModelConfig
from srpo_ray.models.latents import vae_shape
from srpo_ray.models.paths import pipeline_file, resolve_path
from srpo_ray.planning.accounting import Part, present
from srpo_ray.planning.cost import velocity_cost
from srpo_ray.planning.schedule import micro_batches, schedule
from srpo_ray.planning.shapes import depths, dtype_of, layers_with_second_attention, part_config, planned_family
from srpo_ray.planning.trace import Cost

_EXCHANGED = 4
"""Tensors of all tokens that workers exchange in an attention: queries, keys, values and the result."""


class TokenSizes(NamedTuple):
    """Sizes of a transformer that its workers divide."""

    heads: int
    image: int
    """Image tokens of a sample."""
    text: int
    """Text tokens of a sample."""


def token_sizes(model: ModelConfig) -> TokenSizes:
    """Read the sizes of a run's transformer from the configs of its pipeline.

    Raises:
        ValueError: If a config cannot be found.
    """
    pixels, _ = vae_shape(part_config(model.path, "vae"))
    (height, width), text = model.size, model.max_sequence_length
    family = planned_family(model)
    if family.clip_tokens:
        file = pipeline_file(resolve_path(model.path), f"{family.tokenizers[0]}/tokenizer_config.json")
        text += json.loads(file.read_text(encoding="utf-8"))["model_max_length"]
    return TokenSizes(
        part_config(model.path, "transformer")["num_attention_heads"],
        _tokens(height, pixels) * _tokens(width, pixels),
        text,
    )


def _tokens(side: int, pixels: int) -> int:
    return side // (2 * pixels)


def check_context_parallel(config: RunConfig) -> None:
    """Check that a group of workers divides heads, image tokens and text tokens of the transformer.

    Raises:
        ValueError: If it does not.
    """
    workers, model = config.training.context_parallel, config.model
    if workers == 1:
        return
    heads, _, text = token_sizes(model)
    expected = f"training.context_parallel: expected a divisor of the {{}} of {model.path}, got {workers}; {{}}"
    if heads % workers:
        fitting = [number for number in range(1, heads + 1) if heads % number == 0]
        raise ValueError(expected.format(f"{heads} attention heads", f"choose one of {', '.join(map(str, fitting))}"))
    for key, size in config.image_sizes.items():
        image = token_sizes(model.with_size(size.resolution)).image
        if image % workers:
            found = f"{image} image tokens ({key}={size})"
            raise ValueError(expected.format(found, f"set {key} to a multiple of {16 * workers}"))
    if text % workers:
        length = model.max_sequence_length
        found = f"{text} text tokens (model.max_sequence_length={length})"
        lower, higher = length - text % workers, length + -text % workers
        choices = f"{lower} or {higher}" if lower > 0 else f"{higher}"
        raise ValueError(expected.format(found, f"set model.max_sequence_length to {choices}"))


def call_cost(config: RunConfig, samples: int, guidance_scale: float, *, gradient: bool) -> Cost:
    """Compute one worker's cost of one velocity of a run.

    A worker has an equal part of the tokens, and so of activations and FLOPs.

    Args:
        config: The run.
        samples: Number of images; 0 costs nothing.
        guidance_scale: Guidance scale.
        gradient: True adds the cost of the backward pass.
    """
    workers, gpu = config.training.context_parallel, config.training.num_gpus > 0
    whole = velocity_cost(config.model, samples, guidance_scale, gradient=gradient, gpu=gpu)
    if workers == 1:
        return whole
    # diffusers' exchange around torch's own attention recomputes the attention in the backward pass.
    again = samples * _attention_flops(config.model) if gradient and config.model.attention == "native" else 0.0
    again *= _rows(config.model, guidance_scale)
    return Cost(
        -(-whole.saved // workers),
        -(-whole.peak // workers),
        whole.forward_flops / workers,
        (whole.backward_flops + again) / workers,
    )


def context_traffic(config: RunConfig) -> tuple[Part, ...]:
    """Compute the bytes that one worker receives from the others of its context group in an update.

    Not counted: gathered outputs and sums of input gradients, with 64 numbers per token, where an attention exchanges
    four vectors of the transformer's width.
    """
    workers, model, plan, count = (
        config.training.context_parallel,
        config.model,
        schedule(config),
        micro_batches(config),
    )
    if workers == 1:
        return ()
    rollouts = plan.rolled_out * plan.sampled_work * _rows(model, config.rollout.guidance_scale)
    # Forward pass, recomputation and backward pass exchange the same bytes.
    passes = 3 if model.gradient_checkpointing else 2
    gradients = plan.samples * plan.trained_work * passes * _rows(model, plan.guidance_scale)
    received = dtype_of(model).itemsize * _exchanged_elements(model) * (workers - 1) / workers**2
    return present(
        Part(f"tokens exchanged among {workers}, rollouts", int(count * rollouts * received)),
        Part(f"tokens exchanged among {workers}, gradients", int(count * gradients * received)),
    )


def _rows(model: ModelConfig, guidance_scale: float) -> int:
    """Count the rows of a transformer call for each image."""
    return 2 if planned_family(model).classifier_free and guidance_scale != 1 else 1


def _attention_flops(model: ModelConfig) -> float:
    """Compute the FLOPs of all attentions of one row in a forward pass: two matrix products each."""
    return sum(4.0 * tokens**2 * _width(model) for tokens in _attentions(model))


def _exchanged_elements(model: ModelConfig) -> int:
    """Count the elements that the attentions of one row exchange in one pass, over all workers of a group."""
    return sum(_EXCHANGED * tokens * _width(model) for tokens in _attentions(model))


def _attentions(model: ModelConfig) -> list[int]:
    """List the tokens of each attention of the transformer."""
    sizes = token_sizes(model)
    second = [sizes.image] * layers_with_second_attention(model)
    return [sizes.image + sizes.text] * sum(depths(model).values()) + second


def _width(model: ModelConfig) -> int:
    config = part_config(model.path, "transformer")
    return config["num_attention_heads"] * config["attention_head_dim"]

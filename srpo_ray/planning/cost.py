"""Cost of the computations of an update, traced on a few layers and extrapolated to all."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from srpo_ray.config.model import ModelConfig
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.planning.accounting import Part, present, total
from srpo_ray.planning.cached import cached, only
from srpo_ray.planning.shapes import (
    SECOND_ATTENTION,
    Layers,
    build_policy,
    depths,
    dtype_of,
    layers_with_second_attention,
    part_config,
    planned_family,
)
from srpo_ray.planning.trace import Cost, trace_forward, trace_gradient
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.preprocess import frame_for_each

_READ_BY_BOTH = ("path", "dtype", "resolution")
"""Fields of section `model` that transformer and decoder depend on."""


def velocity_cost(model: ModelConfig, samples: int, guidance_scale: float, *, gradient: bool, gpu: bool) -> Cost:
    """Compute the cost of one velocity. Classifier-free guidance doubles the rows of the transformer call.

    Args:
        model: Section `model`.
        samples: Number of images; 0 costs nothing.
        guidance_scale: Guidance scale.
        gradient: True adds the cost of the backward pass.
        gpu: True for the kernels of a GPU, false for those of a CPU.
    """
    if not samples:
        return Cost()
    doubled = planned_family(model).classifier_free and guidance_scale != 1
    return transformer_cost(model, 2 * samples if doubled else samples, gradient=gradient, gpu=gpu)


def network_calls(model: ModelConfig, samples: float, guidance_scale: float) -> float:
    """Count the calls of the network for one velocity: one, or one for each row if texts differ in length.

    Args:
        model: Section `model`.
        samples: Number of images, possibly a mean.
        guidance_scale: Guidance scale.
    """
    family = planned_family(model)
    if family.equal_lengths:
        return 1
    return 2 * samples if family.classifier_free and guidance_scale != 1 else samples


def transformer_cost(model: ModelConfig, samples: int, *, gradient: bool, gpu: bool) -> Cost:
    """Compute the cost of one transformer call.

    Args:
        model: Section `model`.
        samples: Rows of the call.
        gradient: True adds the cost of the backward pass.
        gpu: True for the kernels of a GPU, false for those of a CPU.
    """
    checkpointing = ("gradient_checkpointing",) if gradient else ()
    read = only(model, *_READ_BY_BOTH, "lora", "max_sequence_length", "truncate_sigma", *checkpointing)
    return _transformer_cost(read, samples, gradient=gradient, gpu=gpu)


@cached
def _transformer_cost(model: ModelConfig, samples: int, *, gradient: bool, gpu: bool) -> Cost:
    def trace(layers: Layers) -> Cost:
        policy = build_policy(model, layers)
        assert isinstance(policy.network, torch.nn.Module)
        inputs = _inputs(model, policy, samples)
        measure = trace_gradient if gradient else trace_forward
        return measure(lambda: policy.velocity(*inputs, 1.0), [policy.network], gpu=gpu)

    return extrapolate(trace, depths(model), layers_with_second_attention(model))


def decoder_cost(model: ModelConfig, samples: int, sizes: tuple[int, ...], *, gradient: bool, gpu: bool) -> Cost:
    """Compute the cost of decoding images in training and resizing them for the rewards.

    Evaluations always decode with the pipeline's VAE: theirs is the cost of `without_decoder(model)`.

    Args:
        model: Section `model`.
        samples: Number of images.
        sizes: Input sizes of the rewards, in pixels per side.
        gradient: True adds the cost of the backward pass.
        gpu: True for the kernels of a GPU, false for those of a CPU.
    """
    checkpointing = ("vae_checkpointing",) if gradient else ()
    return _decoder_cost(
        only(model, *_READ_BY_BOTH, "decoder", *checkpointing), samples, sizes, gradient=gradient, gpu=gpu
    )


def without_decoder(model: ModelConfig) -> ModelConfig:
    """Return the section of a run that decodes with the pipeline's VAE, as evaluations do."""
    return model.model_copy(update={"decoder": None})


@cached
def _decoder_cost(model: ModelConfig, samples: int, sizes: tuple[int, ...], *, gradient: bool, gpu: bool) -> Cost:
    policy = build_policy(model, dict.fromkeys(depths(model), 1))
    tokens = torch.empty(samples, *policy.token_shape, device="meta", requires_grad=gradient)

    def decode() -> Tensor:
        pixels = frame_for_each(policy.decode_for_training(tokens), [InputSpec(size) for size in sizes])
        return torch.cat([image.flatten() for image in pixels.values()])

    measure = trace_gradient if gradient else trace_forward
    return measure(decode, [policy.training_decoder or policy.vae], gpu=gpu)


def extrapolate(trace: Callable[[Layers], Cost], layers: Mapping[str, int], second: int = 0) -> Cost:
    """Extrapolate the cost of many layers from few; saved bytes and FLOPs are linear in the number of each kind.

    The peak is at the start of the backward pass, when all activations are still saved.

    Args:
        trace: Computes the cost of a transformer with these values in its config.
        layers: Number of layers of each kind.
        second: Number of first layers that have a second attention, as in Stable Diffusion 3.5 Medium; fewer than all.
    """
    few, more = _few_layers(layers, second)
    if not second and sum(layers.values()) <= len(layers) * (len(layers) + 2):
        # All layers at once are fewer than those of the traces below.
        return trace(layers)
    base = trace(few)
    saved, forward, backward = base.saved, base.forward_flops, base.backward_flops
    for changed, count in more:
        one_more = trace({**few, **changed})
        saved += count * (one_more.saved - base.saved)
        forward += count * (one_more.forward_flops - base.forward_flops)
        backward += count * (one_more.backward_flops - base.backward_flops)
    return Cost(saved, saved + base.peak - base.saved, forward, backward)


def _few_layers(layers: Mapping[str, int], second: int) -> tuple[Layers, list[tuple[Layers, int]]]:
    """List the config of few layers, and each config with one layer more and the number of such layers that lack."""
    if not second:
        return dict.fromkeys(layers, 1), [({kind: 2}, count - 1) for kind, count in layers.items()]
    # The last layer has no second attention and, in the text stream, no output.
    ((kind, count),) = layers.items()
    with_second: Layers = {kind: 3, SECOND_ATTENTION: [0, 1]}
    return {kind: 2, SECOND_ATTENTION: [0]}, [(with_second, second - 1), ({kind: 3}, count - 1 - second)]


def peak_of_backward(
    transformer: Cost, decoder: Cost, *, losses: int, chained: int, gradients: int
) -> tuple[Part, ...]:
    """Find the memory at the peak of a backward pass over the sum of several losses.

    Autograd processes the graphs last to first, each from the decoder to the transformer. A parameter's gradient is
    complete when the last call has added to it. Only then can it be averaged and freed, so until then the gradients
    of the earlier calls stay in memory.

    Args:
        transformer: Cost of one call with gradient.
        decoder: Cost of the decoder for the same images.
        losses: Number of graphs in the sum.
        chained: Transformer calls in each graph.
        gradients: Bytes of the gradients of all trained parameters, in the data type of the backward pass.
    """
    moments = []
    for left in range(losses, 0, -1):
        waiting = gradients if left < losses else 0
        decoding = _moment(left * chained, transformer, left, decoder, decoder.peak - decoder.saved, waiting)
        moments.append(decoding)
        for calls in range(chained, 0, -1):
            waiting = gradients if left < losses or calls < chained else 0
            work = transformer.peak - transformer.saved
            moments.append(_moment((left - 1) * chained + calls, transformer, left - 1, decoder, work, waiting))
    return max(moments, key=total)


def _moment(calls: int, transformer: Cost, decodings: int, decoder: Cost, work: int, waiting: int) -> tuple[Part, ...]:
    return present(
        Part("activations, transformer", calls * transformer.saved),
        Part("activations, VAE decoder", decodings * decoder.saved),
        Part("backward pass at work", work),
        Part("gradients between losses", waiting),
    )


def forward_flops(model: ModelConfig) -> float:
    """Compute the FLOPs of one transformer call for one image; a multiplication and addition count as two."""
    return transformer_cost(model, 1, gradient=False, gpu=True).forward_flops


def gradient_flops(model: ModelConfig) -> float:
    """Compute the FLOPs of one transformer call for one image and its backward pass, recomputation included."""
    cost = transformer_cost(model, 1, gradient=True, gpu=True)
    return cost.forward_flops + cost.backward_flops


class ImageBytes(NamedTuple):
    """Inputs of one image, in bytes."""

    tokens: int
    """Latent tokens, float32."""
    text: int
    """Text features, in the data type of the forward passes."""


def image_bytes(model: ModelConfig) -> ImageBytes:
    """Compute the bytes of an image's inputs to a transformer call."""
    return _image_bytes(only(model, *_READ_BY_BOTH, "max_sequence_length"))


@cached
def _image_bytes(model: ModelConfig) -> ImageBytes:
    tokens, _, text = _inputs(model, build_policy(model, dict.fromkeys(depths(model), 1)), 1)
    return ImageBytes(tokens.nbytes, sum(tensor.nbytes for tensor in vars(text).values()))


def _inputs(model: ModelConfig, policy: FlowPolicy, samples: int) -> tuple[Tensor, Tensor, Conditioning]:
    config, dtype = part_config(model.path, "transformer"), dtype_of(model)
    keys = ("cap_feat_dim", "text_hidden_dim", "context_in_dim", "joint_attention_dim")
    width = next(config[key] for key in keys if key in config)
    # Krea 2 reads several layers of its text encoder.
    width *= config.get("num_text_layers", 1)
    # The mask is one more channel.
    width += planned_family(model).masked_text
    text = torch.empty(samples, model.max_sequence_length, width, dtype=dtype, device="meta")
    pooled = torch.empty(samples, config.get("pooled_projection_dim", 1), dtype=dtype, device="meta")
    tokens = torch.empty(samples, *policy.token_shape, device="meta")
    return tokens, torch.empty(samples, device="meta"), Conditioning(text, pooled)

"""What the GPU of one trainer worker holds."""

from srpo_ray.config import RunConfig
from srpo_ray.planning.architecture import dtype_of, parameters, text_encoder_bytes, vae_bytes
from srpo_ray.planning.computation import decoder_cost, velocity_cost
from srpo_ray.planning.gradient import peak_of_backward
from srpo_ray.planning.hardware import CONTEXT_BYTES, NCCL_BYTES, SLACK
from srpo_ray.planning.memory import Memory, Part, Phase, present, total
from srpo_ray.planning.schedule import schedule
from srpo_ray.planning.sharding import (
    REDUCE_BUCKET,
    Share,
    gathered,
    live_layers,
    share,
    trained_elements,
    update_buffers,
)
from srpo_ray.planning.trace import Cost


def trainer_memory(config: RunConfig, sizes: tuple[int, ...]) -> Memory:
    """What one worker holds on its GPU, or in its process where it has none.

    Args:
        config: The run.
        sizes: Sides of the images that its rewards want, in pixels.
    """
    training = config.training
    element_size = dtype_of(config.model).itemsize
    part = share(parameters(config.model), training, element_size, config.algorithm.needs.roles)
    always = _always(config, part)
    phases = (_encoding(config, always), _loading(config, always), *_update(config, sizes), _evaluation(config, sizes))
    if not training.num_gpus:
        return Memory("trainer process, on the CPU", always, phases)
    allocated = Memory("", always, phases).allocated
    outside = present(
        Part(f"allocator slack, {SLACK:.0%} assumed", int(SLACK * allocated)),
        Part("CUDA context, assumed", CONTEXT_BYTES),
        Part("NCCL, assumed", NCCL_BYTES if training.max_workers > 1 else 0),
    )
    return Memory("trainer GPU", always, phases, outside)


def _always(config: RunConfig, part: Share) -> tuple[Part, ...]:
    offload = config.training.offload
    return present(
        Part("transformer weights", 0 if offload == "weights" else part.weights),
        Part("small weights, whole", part.whole),
        Part("master weights, float32", 0 if offload else part.master),
        Part("Adam moments, float32", 0 if offload else part.moments),
        Part("summed gradients, float32", 0 if offload else part.gradients),
        Part("the EMA of the weights", part.ema),
        Part("old weights", part.old),
        Part("reference weights", part.reference),
        Part("gradient bucket", part.bucket),
        Part("VAE weights", vae_bytes(config.model)),
    )


def _loading(config: RunConfig, always: tuple[Part, ...]) -> Phase:
    """The whole transformer is put on the GPU and then cut up, tensor by tensor; the optimizer comes later."""
    whole = dtype_of(config.model).itemsize * sum(parameter.numel for parameter in parameters(config.model))
    return Phase("loading", present(Part("whole weights, before the optimizer", max(0, whole - total(always)))))


def _encoding(config: RunConfig, always: tuple[Part, ...]) -> Phase:
    """Worker 0 encodes what the cache of text features lacks, before anything else is there."""
    encoders = text_encoder_bytes(config.model)
    return Phase("text encoding", present(Part("text encoders, before the weights", max(0, encoders - total(always)))))


def _update(config: RunConfig, sizes: tuple[int, ...]) -> tuple[Phase, ...]:
    model, training = config.model, config.training
    gpu, element_size, tensors = training.num_gpus > 0, dtype_of(model).itemsize, parameters(config.model)
    plan = schedule(config)
    sampling = velocity_cost(model, plan.rolled_out, config.rollout.guidance_scale, gradient=False, gpu=gpu).peak
    decoder = decoder_cost(model, plan.samples, sizes, gradient=plan.decodes, gpu=gpu)
    if not plan.decodes:
        sampling = max(sampling, decoder.peak)
        decoder = Cost()
    call = velocity_cost(model, plan.samples, plan.guidance_scale, gradient=True, gpu=gpu)
    trained = trained_elements(tensors)
    moment = peak_of_backward(
        call, decoder, losses=plan.in_flight, chained=plan.chained, gradients=element_size * trained
    )
    # A full bucket is copied into the order of the workers' parts.
    averaging = element_size * min(trained, REDUCE_BUCKET) if training.max_workers > 1 else 0
    layers = Part("gathered layers", live_layers(tensors, training, element_size))
    gradient = Phase("gradient", (*present(layers, Part("averaging of gradients", averaging)), *moment))
    step = 0 if training.offload else update_buffers(tensors, training)
    return (
        Phase("rollout", present(_sampling_weights(config), Part("activations", sampling))),
        gradient,
        Phase("optimizer", present(Part("optimizer at work", step))),
    )


def _evaluation(config: RunConfig, sizes: tuple[int, ...]) -> Phase:
    gpu, evaluation = config.training.num_gpus > 0, config.evaluation
    images = evaluation.batch_size
    if evaluation.num_prompts:
        share_of_evaluator = -(-evaluation.num_prompts * evaluation.samples_per_prompt // config.training.min_workers)
        images = min(images, share_of_evaluator)
    call = velocity_cost(config.model, images, evaluation.guidance_scale, gradient=False, gpu=gpu).peak
    decoding = decoder_cost(config.model, images, sizes, gradient=False, gpu=gpu).peak
    return Phase("evaluation", present(_sampling_weights(config), Part("activations", max(call, decoding))))


def _sampling_weights(config: RunConfig) -> Part:
    """Weights that are gathered to sample images."""
    training, element_size = config.training, dtype_of(config.model).itemsize
    tensors = parameters(config.model)
    if training.gather_for_rollout:
        return Part("whole weights, gathered", gathered(tensors, training, element_size))
    return Part("gathered layers", live_layers(tensors, training, element_size))

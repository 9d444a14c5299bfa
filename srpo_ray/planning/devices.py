"""Memory of each device: a trainer GPU, a reward replica, and the host of a trainer node."""

from collections.abc import Sequence

from srpo_ray.config import RunConfig
from srpo_ray.config.count import CountRange
from srpo_ray.config.evaluation import EvaluationConfig
from srpo_ray.config.zero import REDUCE_BUCKET
from srpo_ray.planning.accounting import Memory, Part, Phase, present, total
from srpo_ray.planning.context import call_cost
from srpo_ray.planning.cost import decoder_cost, image_bytes, peak_of_backward, velocity_cost, without_decoder
from srpo_ray.planning.hardware import CONTEXT_BYTES, NCCL_BYTES, PROCESS_BYTES, SLACK
from srpo_ray.planning.kept import call_text, joined_parts, kept_parts, waiting_pixels
from srpo_ray.planning.reward_models import RewardSize
from srpo_ray.planning.schedule import evaluated_images, largest_share, rollout_images, schedule
from srpo_ray.planning.shapes import (
    build_policy,
    dtype_of,
    parameters,
    part_config,
    planned_family,
    rollout_base_bytes,
    text_encoder_bytes,
    vae_bytes,
)
from srpo_ray.planning.trace import Cost
from srpo_ray.planning.workload import checkpoint_bytes, group_copy
from srpo_ray.planning.zero_shares import (
    MASTER,
    Share,
    gathered,
    largest_layer,
    live_layers,
    share,
    trained_elements,
    update_buffers,
)


def trainer_memory(config: RunConfig, sizes: tuple[int, ...]) -> Memory:
    """Compute the memory of one trainer worker: of its GPU, or of its process on the CPU.

    Args:
        config: The run.
        sizes: Input sizes of the rewards, in pixels per side.
    """
    training = config.training
    element_size = dtype_of(config.model).itemsize
    part = share(parameters(config.model), training, element_size, config.kept_roles)
    always = _always_on_trainer(config, part)
    phases = (
        _encoding_phase(config, always),
        *_base_sampling_phase(config, always),
        _loading_phase(config, always),
        *_update_phases(config, sizes),
        _evaluation_phase(config, sizes),
    )
    if not training.num_gpus:
        return Memory("trainer process, on the CPU", always, phases)
    allocated = Memory("", always, phases).allocated
    outside = present(
        Part(f"allocator slack, {SLACK:.0%} assumed", int(SLACK * allocated)),
        Part("CUDA context, assumed", CONTEXT_BYTES),
        Part("NCCL, assumed", NCCL_BYTES if training.max_workers > 1 else 0),
    )
    return Memory("trainer GPU", always, phases, outside)


def _always_on_trainer(config: RunConfig, part: Share) -> tuple[Part, ...]:
    offload = config.training.offload
    return present(
        Part("transformer weights", 0 if offload == "weights" else part.weights),
        Part("small weights, whole", part.whole),
        Part("8-bit copies for rollouts", rollout_base_bytes(config.model) if config.rollout.base else 0),
        Part("weights, sharded again in a group", group_copy(config)),
        Part("master weights, float32", 0 if offload else part.master),
        Part("Adam moments, float32", 0 if offload else part.moments),
        Part("summed gradients, float32", _gradients(config, part)),
        Part("the EMA of the weights", 0 if offload else part.ema),
        Part("old weights", 0 if offload else part.old),
        Part("reference weights", 0 if offload == "weights" else part.reference),
        Part("weights of evaluation.contrast_with", 0 if offload == "weights" else part.contrast),
        Part("gradient bucket", part.bucket),
        Part("VAE weights", vae_bytes(config.model)),
        Part("rollouts that are reused", _reused(config)),
    )


def _gradients(config: RunConfig, part: Share) -> int:
    """Compute the bytes of accumulated gradients on a GPU."""
    if config.training.offload is None:
        return part.gradients
    return part.waiting if config.zero_stage.whole_weights else 0


def _reused(config: RunConfig) -> int:
    """Compute the bytes of the clean tokens that several updates reuse: a worker's share of the batch, float32."""
    if config.rollout.reuse == 1:
        return 0
    return largest_share(config) * config.training.pass_size * image_bytes(config.model).tokens


def _loading_phase(config: RunConfig, always: tuple[Part, ...]) -> Phase:
    """Phase with the whole transformer, before the optimizer. Several workers at stage 3 load their shards only."""
    training = config.training
    if training.min_workers > 1 and not config.zero_stage.whole_weights and not training.shard_group_size:
        return Phase("loading", ())
    element_size, tensors = dtype_of(config.model).itemsize, parameters(config.model)
    # Quantised layers come one by one.
    whole = sum(each.bytes(element_size) for each in tensors) + largest_layer(tensors, element_size)
    return Phase("loading", present(Part("whole weights, before the optimizer", max(0, whole - total(always)))))


def _base_sampling_phase(config: RunConfig, always: tuple[Part, ...]) -> tuple[Phase, ...]:
    """Phase in which a whole base model samples its images, before the weights are loaded."""
    if config.rollout.source != "base_model":
        return ()
    model, size = config.model, config.base_batch_size
    whole = sum(each.bytes(dtype_of(model).itemsize) for each in parameters(model)) + vae_bytes(model)
    gpu = config.training.num_gpus > 0
    peak = velocity_cost(model, size, config.rollout.guidance_scale, gradient=False, gpu=gpu).peak
    peak += _block_cache(config, size).bytes
    part = Part("whole base model and activations, before the weights", max(0, whole + peak - total(always)))
    return (Phase("sampling of the base model", present(part)),)


def _encoding_phase(config: RunConfig, always: tuple[Part, ...]) -> Phase:
    """Phase in which worker 0 encodes the texts that the cache lacks, before it loads the weights."""
    encoders = text_encoder_bytes(config.model)
    return Phase("text encoding", present(Part("text encoders, before the weights", max(0, encoders - total(always)))))


def _update_phases(config: RunConfig, sizes: tuple[int, ...]) -> tuple[Phase, ...]:
    model, training = config.model, config.training
    gpu, element_size, tensors = training.num_gpus > 0, dtype_of(model).itemsize, parameters(config.model)
    plan, kept = schedule(config), kept_parts(config)
    sampling = call_cost(config, rollout_images(config), config.rollout.guidance_scale, gradient=False).peak
    decoder = decoder_cost(model, plan.decoded, sizes, gradient=plan.decodes, gpu=gpu)
    if not plan.decodes:
        decoded = decoder_cost(model, max(plan.decoded, rollout_images(config)), sizes, gradient=False, gpu=gpu)
        sampling = max(sampling, decoded.peak)
        decoder = Cost()
    call = call_cost(config, plan.samples, plan.guidance_scale, gradient=True)
    trained = trained_elements(tensors)
    moment = peak_of_backward(
        call, decoder, losses=plan.in_flight, chained=plan.chained, gradients=element_size * trained
    )
    # A full bucket is copied into the order of the workers' parts.
    averaging = element_size * min(trained, REDUCE_BUCKET) if training.max_workers > 1 else 0
    layers = Part("gathered layers", live_layers(tensors, training, element_size))
    gradient = Phase(
        "gradient",
        (
            *present(layers, _dequantized(config), Part("averaging of gradients", averaging), call_text(config)),
            *moment,
            *kept,
        ),
    )
    step = 0 if training.offload else update_buffers(tensors, training)
    return (
        Phase(
            "rollout",
            present(
                _sampling_weights(config),
                _dequantized(config),
                Part("activations", sampling),
                _block_cache(config, rollout_images(config)),
                *kept,
                *joined_parts(config),
                call_text(config),
                waiting_pixels(config, sizes),
            ),
        ),
        gradient,
        Phase("optimizer", (*present(Part("optimizer at work", step)), *kept)),
    )


def _block_cache(config: RunConfig, rows: int) -> Part:
    """Residuals of a first-block cache: of the first block, of the others and of the present call, `[B, N, D]` each."""
    if config.rollout.cache_threshold is None:
        return Part("first-block cache", 0)
    model = config.model
    if planned_family(model).classifier_free and config.rollout.guidance_scale != 1:
        rows *= 2
    tokens, _ = build_policy(model).token_shape
    shape = part_config(model.path, "transformer")
    width = shape["num_attention_heads"] * shape["attention_head_dim"]
    return Part("first-block cache", 3 * rows * tokens * width * dtype_of(model).itemsize)


def _evaluation_phase(config: RunConfig, sizes: tuple[int, ...]) -> Phase:
    evaluations = [each for each in (config.evaluation, config.evaluation.tested) if each]
    activations = Part("activations", max(_peak_of_evaluation(config, each, sizes) for each in evaluations))
    return Phase("evaluation", present(_sampling_weights(config), _dequantized(config), activations))


def _peak_of_evaluation(config: RunConfig, evaluation: EvaluationConfig, sizes: tuple[int, ...]) -> int:
    """Compute the activations of one batch of an evaluation, at the size of its images."""
    at_size = config.model_copy(update={"model": config.model_at(evaluation)})
    gpu, images = config.training.num_gpus > 0, evaluated_images(evaluation, config)
    call = call_cost(at_size, images, evaluation.guidance_scale, gradient=False).peak
    decoding = decoder_cost(without_decoder(at_size.model), images, sizes, gradient=False, gpu=gpu).peak
    return max(call, decoding)


def _dequantized(config: RunConfig) -> Part:
    """Working copy of one layer at a time, whose weights are quantised."""
    return Part("one layer, dequantised", largest_layer(parameters(config.model), dtype_of(config.model).itemsize))


def _sampling_weights(config: RunConfig) -> Part:
    """Weights that are gathered to sample images."""
    training, element_size = config.training, dtype_of(config.model).itemsize
    tensors = parameters(config.model)
    if training.gather_for_rollout:
        return Part("whole weights, gathered", gathered(tensors, training, element_size))
    return Part("gathered layers", live_layers(tensors, training, element_size))


def replica_count(config: RunConfig) -> int:
    """Compute the maximum number of replicas of the pool, over all models if each has replicas of its own."""
    return config.rewards.pool.most_replicas(len(config.rewards.models) + len(config.evaluation.held_out))


def replica_notes(config: RunConfig) -> tuple[str, ...]:
    """List the plan's assumptions about the pool."""
    count = config.rewards.pool.num_replicas
    if config.rewards.in_process or not isinstance(count, CountRange):
        return ()
    return (f"rewards.pool.num_replicas is {count.min} to {count.max}; the plan is for {count.max}",)


def replicas_per_gpu(config: RunConfig) -> int:
    """Compute the maximum number of replicas that Ray may place on one GPU without trainers."""
    pool = config.rewards.pool
    return min(replica_count(config), _fitting(1.0, pool.num_gpus))


def replicas_beside_a_trainer(config: RunConfig) -> int:
    """Compute the maximum number of replicas on one trainer's GPU; 0 if custom resources keep the two apart."""
    training, pool = config.training, config.rewards.pool
    apart = bool(set(pool.resources) ^ set(training.resources))
    if config.rewards.in_process or apart or not training.num_gpus or not pool.num_gpus:
        return 0
    return min(replica_count(config), _fitting(1.0 - training.num_gpus, pool.num_gpus))


def replica_memory(config: RunConfig, rewards: Sequence[RewardSize]) -> Memory:
    """Compute the memory of one replica: its models and the activations of one call.

    If each model has replicas of its own, this is the largest of them. Rewards in process have no context of their own.

    Args:
        config: The run.
        rewards: Sizes of the models.
    """
    on_gpu = config.rewards.pool.num_gpus > 0 and not config.rewards.in_process
    if config.rewards.pool.one_model_each and not config.rewards.in_process:
        rewards = sorted(rewards, key=lambda reward: reward.weights + reward.texts + reward.cost.peak)[-1:]
    always = present(
        *(Part(f"{reward.name}, weights", reward.weights) for reward in rewards),
        Part("text features, cache full", sum(reward.texts for reward in rewards)),
    )
    largest = max((reward.cost.peak for reward in rewards), default=0)
    phases = (Phase("scoring", present(Part("activations of one call", largest))),)
    if not on_gpu:
        return Memory("reward replica, on the CPU", always, phases)
    slack = int(SLACK * Memory("", always, phases).allocated)
    outside = (Part(f"allocator slack, {SLACK:.0%} assumed", slack), Part("CUDA context, assumed", CONTEXT_BYTES))
    return Memory("reward replica", always, phases, outside)


def with_rewards(trainer: Memory, rewards: Memory) -> Memory:
    """Add the reward models of a run with `rewards.in_process` to the trainer's GPU, as if each phase could score."""
    models = Part("reward models in the trainer's process", rewards.allocated)
    slack = Part("their allocator slack", int(SLACK * rewards.allocated))
    return Memory(trainer.name, trainer.always, trainer.phases, (*trainer.outside, models, slack))


def _fitting(room: float, need: float) -> int:
    """Count how many times a need fits; the tolerance is for fractions such as 0.1."""
    return int(room / need + 1e-9) if need else 0


def host_memory(config: RunConfig, gpus_per_node: int, rewards: Sequence[RewardSize]) -> Memory:
    """Compute the host memory of a trainer node, without Ray's object store.

    Args:
        config: The run.
        gpus_per_node: Maximum number of workers on one node.
        rewards: Sizes of the reward models.
    """
    training, pool = config.training, config.rewards.pool
    element_size, tensors = dtype_of(config.model).itemsize, parameters(config.model)
    workers = min(training.max_workers, gpus_per_node)
    part = share(tensors, training, element_size, config.kept_roles)
    offloaded = part.optimizer if training.offload else 0
    if not config.zero_stage.whole_weights:
        offloaded += part.waiting
    if training.offload == "weights":
        offloaded += part.forward_weights
    in_replicas = 0
    if config.rewards.in_process and not training.num_gpus:
        in_replicas = workers * replica_memory(config, rewards).allocated
    elif not pool.num_gpus:
        in_replicas = replica_count(config) * (PROCESS_BYTES + replica_memory(config, rewards).allocated)
    always = present(
        Part(f"{PROCESS_BYTES >> 30} GiB for each trainer process, assumed", workers * PROCESS_BYTES),
        Part("offloaded from the GPUs", workers * offloaded),
        Part("reward models on the CPU", in_replicas),
    )
    whole = element_size * sum(parameter.numel for parameter in tensors)
    start = workers * element_size * (part.master // MASTER)
    kept = checkpoint_bytes(config)
    # Each worker writes an equal share, so a node writes as much as it has workers of the fewest.
    written = kept * min(workers, training.min_workers) // training.min_workers
    phases = (
        # Workers map the files of the weights: the host has one copy in its page cache, however many they are.
        Phase("loading", (Part("files of the weights, mapped", whole),)),
        Phase("first update", (Part("weights before it, until they are evaluated", start),)),
        Phase("checkpoint", (Part("weights and moments of its workers, to be written", written),)),
    )
    return Memory(f"host of {workers} trainer{'s' if workers > 1 else ''}", always, phases)

"""Workload of an update: FLOPs, and traffic between a worker and the others."""

from collections.abc import Sequence
from dataclasses import dataclass

from srpo_ray.config import RunConfig
from srpo_ray.planning.accounting import Part, present
from srpo_ray.planning.context import call_cost
from srpo_ray.planning.cost import decoder_cost, network_calls, without_decoder
from srpo_ray.planning.host import forward_seconds, gradient_hooks, gradient_seconds, sampling_hooked
from srpo_ray.planning.reward_models import RewardSize
from srpo_ray.planning.schedule import evaluated_images, micro_batches, rollout_batches, schedule
from srpo_ray.planning.shapes import dtype_of, parameters
from srpo_ray.planning.trace import Cost
from srpo_ray.planning.zero_shares import MASTER, gathered, stage_of, trained_elements


@dataclass(frozen=True)
class Work:
    """Computation of one kind in an update."""

    name: str
    flops: float
    """Operations of one worker, or of all replicas together for the reward models."""
    host_s: float = 0.0
    """Seconds of the host's Python, estimated; 0 on the CPU, where they are part of the arithmetic."""

    def seconds(self, flops: float) -> float:
        """Compute the seconds at a number of operations per second. GPU and host work at once: the slower counts."""
        return max(self.flops / flops, self.host_s)


def worker_work(config: RunConfig, sizes: tuple[int, ...]) -> tuple[Work, ...]:
    """Compute the FLOPs of one worker in an update, without its share of evaluations.

    Args:
        config: The run.
        sizes: Input sizes of the rewards, in pixels per side.
    """
    model, gpu, plan, count = config.model, config.training.num_gpus > 0, schedule(config), micro_batches(config)
    guidance_scale = config.rollout.guidance_scale
    forward = call_cost(config, plan.rolled_out, guidance_scale, gradient=False).forward_flops
    call = call_cost(config, plan.samples, plan.guidance_scale, gradient=True)
    decoder = decoder_cost(model, plan.images, sizes, gradient=plan.decodes, gpu=gpu)
    compared = call_cost(config, plan.images, plan.guidance_scale, gradient=False).forward_flops
    again = decoder_cost(model, plan.images, sizes, gradient=False, gpu=gpu).forward_flops if plan.measured else 0.0
    reuse = config.rollout.reuse
    rollouts, gradients = count * plan.sampled_work, count * plan.trained_work
    sampled = rollouts * forward + count * plan.compared * compared
    sampled_s = forward_seconds(model, hooked=sampling_hooked(config)) if gpu else 0.0
    trained_s = gradient_seconds(model, plan.in_flight, gradient_hooks(config)) if gpu else 0.0
    name = "rollout" if reuse == 1 else f"rollout, mean over {reuse} updates"
    return (
        Work(name, sampled, _calls_without_gradient(config) * sampled_s),
        Work("gradient steps", gradients * _both(call), count * _calls_with_gradient(config) * trained_s),
        Work("VAE decoder", count * (plan.decodings * _both(decoder) + again)),
    )


def _calls_without_gradient(config: RunConfig) -> float:
    """Count the calls of the network without gradient of one worker in an update."""
    model, plan, batches = config.model, schedule(config), rollout_batches(config)
    together = micro_batches(config) / batches
    rolled_out = network_calls(model, together * plan.rolled_out * plan.forward_size, config.rollout.guidance_scale)
    compared = network_calls(model, together * plan.images, plan.guidance_scale)
    return batches * (plan.forward * rolled_out + plan.compared * compared)


def _calls_with_gradient(config: RunConfig) -> float:
    """Count the calls of the network with gradient for one micro-batch."""
    plan = schedule(config)
    each = network_calls(config.model, plan.samples * plan.gradient_size, plan.guidance_scale)
    return plan.gradients * plan.mean_chained * each


def mean_work(works: Sequence[tuple[Work, ...]]) -> tuple[Work, ...]:
    """Compute the mean of the work of one worker in an update over several sizes of images.

    Args:
        works: Work of an update with each size.
    """
    return tuple(
        Work(same[0].name, sum(each.flops for each in same) / len(same), sum(each.host_s for each in same) / len(same))
        for same in zip(*works, strict=True)
    )


def evaluation_work(config: RunConfig, sizes: tuple[int, ...]) -> Work | None:
    """Compute the work of one worker in one evaluation, without that of the reward models.

    Args:
        config: The run.
        sizes: Input sizes of the rewards, in pixels per side.

    Returns:
        The work; None if `evaluation.num_prompts` does not say how many images there are.
    """
    evaluation, training = config.evaluation, config.training
    if not evaluation.num_prompts:
        return None
    model = config.model_at(evaluation)
    config = config.model_copy(update={"model": model})
    gpu, batch = training.num_gpus > 0, evaluated_images(evaluation, config)
    images = -(-evaluation.num_prompts * evaluation.samples_per_prompt // training.data_workers)
    step = call_cost(config, batch, evaluation.guidance_scale, gradient=False).forward_flops / batch
    decoding = decoder_cost(without_decoder(model), batch, sizes, gradient=False, gpu=gpu).forward_flops / batch
    each = network_calls(model, batch, evaluation.guidance_scale)
    calls = -(-images // evaluation.batch_size) * evaluation.calls * each
    host_s = calls * forward_seconds(model, hooked=sampling_hooked(config)) if gpu else 0.0
    return Work("evaluation", images * (evaluation.calls * step + decoding), host_s)


def checkpoint_bytes(config: RunConfig) -> int:
    """Compute the bytes of a checkpoint: float32 weights and both moments, EMA and old weights of what is trained."""
    copies = 3 + bool(config.training.ema) + ("old" in config.algorithm.roles)
    return copies * MASTER * trained_elements(parameters(config.model))


def replica_work(config: RunConfig, trained: Sequence[RewardSize]) -> Work:
    """Compute the FLOPs of all replicas together in an update, for all workers. They run in parallel with the trainers.

    Args:
        config: The run.
        trained: Sizes of the trained rewards, for calls of `micro_batch_size` images.
    """
    plan = schedule(config)
    images = config.training.data_workers * micro_batches(config) * plan.images
    one = sum(plan.decodings * _both(reward.cost) + plan.measured * reward.cost.forward_flops for reward in trained)
    return Work("reward models", images * one / config.rewards.pool.micro_batch_size)


def _both(cost: Cost) -> float:
    return cost.forward_flops + cost.backward_flops


WIRE_BYTES = {"float32": 4, "bfloat16": 2}


def worker_traffic(config: RunConfig) -> tuple[Part, ...]:
    """Compute the bytes that one worker receives from the others in an update.

    Collectives count as rings: a gather and a scattered sum of N bytes among W workers send (W - 1) / W * N to each
    worker, and a sum that every worker receives sends twice as much. With adapters at stage 3, the result is too high
    by the frozen layers that no gradient passes, which a backward pass does not gather: FLUX.1's embedders (below 1 %),
    and without `model.gradient_checkpointing` also its modulation layers.
    """
    training, plan, count = config.training, schedule(config), micro_batches(config)
    element_size, tensors = dtype_of(config.model).itemsize, parameters(config.model)
    others = (training.max_workers - 1) / training.max_workers
    trained, stage = others * trained_elements(tensors), stage_of(tensors, training)
    backwards = count * plan.optimizer_steps * -(-plan.losses // plan.in_flight)
    if stage.whole_weights:
        # A sum that all receive is sent twice: after each backward pass, or at stage 1 once per optimizer step.
        sums = backwards if stage.number == 2 else plan.optimizer_steps
        return present(
            Part("gradients averaged", int(2 * sums * element_size * trained)),
            Part("updated weights", int(plan.optimizer_steps * element_size * trained)),
        )
    once = others * gathered(tensors, training, element_size)
    # Every call with gradient gathers the weights twice, for its forward and for its backward pass.
    calls = 2 * _calls_with_gradient(config)
    rollouts = plan.sampling + plan.phases - 1 if training.gather_for_rollout else _calls_without_gradient(config)
    # In a group, the first gather of an update makes the group's copy.
    first = 1 - min(1, rollouts) if training.shard_group_size else count * calls
    return present(
        Part("weights gathered for rollouts", int(rollouts * once)),
        Part("weights gathered for gradients", int(first * once)),
        Part("gradients averaged", int(backwards * element_size * trained)),
    )


def group_traffic(config: RunConfig) -> tuple[Part, ...]:
    """Compute the bytes between one worker and those of its group of `training.shard_group_size` in an update."""
    size = config.training.shard_group_size
    if size is None:
        return ()
    once = (size - 1) / size * gathered(parameters(config.model), config.training, dtype_of(config.model).itemsize)
    calls = 2 * _calls_with_gradient(config)
    return present(Part(f"weights gathered in groups of {size}", int(micro_batches(config) * calls * once)))


def group_copy(config: RunConfig) -> int:
    """Compute the bytes of one worker's part of the copy of the weights that its group shards."""
    size = config.training.shard_group_size
    if size is None:
        return 0
    return dtype_of(config.model).itemsize * sum(-(-tensor.numel // size) for tensor in parameters(config.model))


def reward_traffic(config: RunConfig, sizes: tuple[int, ...]) -> tuple[Part, ...]:
    """Compute the bytes between one worker and the reward replicas in an update.

    Args:
        config: The run.
        sizes: Input sizes of the trained rewards, in pixels per side.
    """
    if config.rewards.in_process:
        return ()
    plan = schedule(config)
    one = sum(3 * size**2 for size in set(sizes)) * WIRE_BYTES[config.rewards.pool.wire_dtype]
    pixels = micro_batches(config) * plan.scored * one
    compares = plan.pairs > 0 and any(model.compares_pairs for model in config.rewards.models)
    return present(
        Part("pixels to the rewards", pixels),
        Part("pixels of images to compare", pixels if compares else 0),
        Part("gradients from the rewards", pixels if plan.decodes else 0),
    )

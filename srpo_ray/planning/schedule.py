"""How often an update of each algorithm calls the transformer and the decoder, with and without gradient."""

from dataclasses import dataclass

from srpo_ray.config import RunConfig


@dataclass(frozen=True)
class Schedule:
    """One micro-batch of one worker."""

    samples: int
    """Pictures of the micro-batch."""
    forward: float
    """Transformer calls without gradient, on average where the algorithm draws their number."""
    losses: int
    """Losses, each with a graph of its own."""
    in_flight: int
    """Losses whose graphs are held together until the backward pass over their sum."""
    chained: int
    """Most transformer calls with gradient in one loss."""
    mean_chained: float
    """The same on average."""
    decodes: bool
    """Whether the gradient comes through the decoder; else pictures are decoded without gradient, once."""
    guidance_scale: float
    """Guidance of the calls with gradient."""


def schedule(config: RunConfig) -> Schedule:
    """What a run's algorithm does with one micro-batch."""
    algorithm, steps, training = config.algorithm, config.rollout.num_steps, config.training
    samples = training.pass_size
    rollout = 0 if config.data.images else steps
    forward, losses, own_in_flight, chained, decodes = float(rollout), 1, 1, 1, True
    mean_chained = 1.0
    if algorithm.type == "srpo":
        own_in_flight = len(algorithm.branches)
        losses = algorithm.renoisings * own_in_flight
    elif algorithm.type == "refl":
        late = max(1, round(algorithm.late_share * steps))
        # The step with gradient is one of the last `late`, all as likely.
        forward = steps - (late + 1) / 2
    elif algorithm.type == "draft":
        forward, losses, chained = float(steps - algorithm.num_steps), 1 + algorithm.renoisings, algorithm.num_steps
        mean_chained = float(chained)
    elif algorithm.type == "align_prop":
        chained = steps
        mean_chained = (steps + 1) / 2 if algorithm.cut == "uniform" else max(1.0, steps * (1 - algorithm.cut_mean))
        forward = steps - mean_chained
    elif algorithm.type == "dance_grpo":
        samples *= algorithm.group_size
        losses = min(max(int(algorithm.step_share * steps), 1), steps - 1)
        decodes = False
    in_flight = min(training.losses_in_flight or own_in_flight, losses)
    guidance_scale = getattr(algorithm, "guidance_scale", config.rollout.guidance_scale)
    return Schedule(samples, forward, losses, in_flight, chained, mean_chained, decodes, guidance_scale)


def micro_batches(config: RunConfig) -> int:
    """Micro-batches of one worker in an update, with most workers."""
    return config.training.num_passes(config.training.max_workers)

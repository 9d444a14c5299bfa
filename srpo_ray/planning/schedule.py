"""How often an update of each algorithm calls the transformer and the decoder, with and without gradient."""

from dataclasses import dataclass
from typing import assert_never

from srpo_ray.config import RunConfig
from srpo_ray.config.algorithm import AlgorithmConfig, SRPOConfig
from srpo_ray.config.baselines import AlignPropConfig, DanceGRPOConfig, DirectAlignConfig, DRaFTConfig, ReFLConfig


@dataclass(frozen=True)
class Calls:
    """What an algorithm does with one micro-batch of prompts that are all rolled out."""

    forward: float
    """Transformer calls without gradient, on average where the algorithm draws their number."""
    losses: int = 1
    """Losses, each with a graph of its own."""
    in_flight: int = 1
    """Losses whose graphs the algorithm keeps together until the backward pass over their sum."""
    chained: int = 1
    """Most transformer calls with gradient in one loss."""
    mean_chained: float = 1.0
    """The same on average."""
    group_size: int = 1
    """Images of each prompt."""
    decodes: bool = True
    """Whether the gradient comes through the decoder; else images are decoded without gradient, once."""


@dataclass(frozen=True)
class Schedule:
    """One micro-batch of one worker."""

    samples: int
    """Pictures of the micro-batch."""
    rolled_out: int
    """Pictures among them that are sampled, in each call without gradient; the others are real."""
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
    calls = planned_calls(config.algorithm, config.rollout.num_steps)
    training, data = config.training, config.data
    real = round(data.image_ratio * training.pass_size) if data.images else 0
    rolled_out = (training.pass_size - real) * calls.group_size
    return Schedule(
        samples=training.pass_size * calls.group_size,
        rolled_out=rolled_out,
        forward=calls.forward if rolled_out else 0.0,
        losses=calls.losses,
        in_flight=min(training.losses_in_flight or calls.in_flight, calls.losses),
        chained=calls.chained,
        mean_chained=calls.mean_chained,
        decodes=calls.decodes,
        guidance_scale=getattr(config.algorithm, "guidance_scale", config.rollout.guidance_scale),
    )


def planned_calls(algorithm: AlgorithmConfig, steps: int) -> Calls:
    """What an algorithm does with one micro-batch.

    Args:
        algorithm: Section `algorithm`.
        steps: Steps of the sampler.
    """
    match algorithm:
        case SRPOConfig():
            branches = len(algorithm.branches)
            return Calls(steps, losses=algorithm.renoisings * branches, in_flight=branches)
        case DirectAlignConfig():
            return Calls(steps)
        case ReFLConfig():
            late = max(1, round(algorithm.late_share * steps))
            # The step with gradient is one of the last `late`, all as likely.
            return Calls(steps - (late + 1) / 2)
        case DRaFTConfig():
            last = algorithm.num_steps
            return Calls(steps - last, losses=1 + algorithm.renoisings, chained=last, mean_chained=last)
        case AlignPropConfig():
            chances = algorithm.cut_probabilities(steps)
            before = sum(cut * chance for cut, chance in enumerate(chances))
            # Step 0 is never the cut.
            return Calls(before, chained=steps - 1, mean_chained=steps - before)
        case DanceGRPOConfig():
            losses = algorithm.trained_steps(steps)
            return Calls(steps, losses=losses, group_size=algorithm.group_size, decodes=False)
        case _:
            assert_never(algorithm)


def micro_batches(config: RunConfig) -> int:
    """Micro-batches of one worker in an update, with most workers."""
    return config.training.num_passes(config.training.max_workers)

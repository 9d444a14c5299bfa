"""Number of transformer and decoder calls of an update, with and without gradient, for each algorithm."""

from dataclasses import dataclass

from srpo_ray.config import RunConfig
from srpo_ray.config.evaluation import EvaluationConfig


@dataclass(frozen=True)
class Schedule:
    """One micro-batch of one worker."""

    images: int
    """Images of the micro-batch."""
    decoded: int
    """Images among them that are decoded at once."""
    samples: int
    """Samples of a call with gradient: the images, or fewer where some share a state."""
    rolled_out: int
    """Images among them that the trained model samples, in each call without gradient, in an update that samples."""
    sampling: float
    """Share of the updates that sample: 1 / `rollout.reuse`, or 0 where every image is real or of the base model."""
    forward: float
    """Transformer calls without gradient, on average over the updates."""
    compared: int
    """Transformer calls without gradient for all images at points of the losses, in every update."""
    losses: int
    """Losses of one optimizer step, each with a graph of its own."""
    in_flight: int
    """Losses whose graphs are held together until the backward pass over their sum."""
    chained: int
    """Most transformer calls with gradient in one loss."""
    mean_chained: float
    """The same on average."""
    forward_size: float
    """Mean size of a call without gradient, as a share of `rolled_out`."""
    gradient_size: float
    """Mean size of a call with gradient, as a share of `samples`."""
    decodes: bool
    """True if the gradient flows through the decoder; else images are decoded without gradient."""
    scores_per_image: int
    """Times that an image is decoded and scored without gradient."""
    guidance_scale: float
    """Guidance of the calls with gradient."""
    phases: int
    """Times that an update gathers the weights to sample, for all micro-batches."""
    optimizer_steps: int
    """Optimizer steps of an update."""
    decodings: int
    """Times that the losses of an update decode and score each image."""
    measured: int
    """Times that each image is scored beside the losses, without gradient."""
    kept: float
    """Tensors of tokens of an image that are kept from the rollout to the losses."""
    pairs: int
    """Pairs of images that each reward that compares pairs is asked about."""

    @property
    def gradients(self) -> int:
        """Losses of an update."""
        return self.losses * self.optimizer_steps

    @property
    def sampled_work(self) -> float:
        """Calls without gradient of an update, each as a share of the largest."""
        return self.forward * self.forward_size

    @property
    def trained_work(self) -> float:
        """Calls with gradient of an update, each as a share of the largest."""
        return self.gradients * self.mean_chained * self.gradient_size

    @property
    def scored(self) -> int:
        """Images of an update that are scored, counted for each time."""
        return self.images * (self.decodings + self.measured)


def schedule(config: RunConfig) -> Schedule:
    """Compute the calls of a run's algorithm for one micro-batch."""
    calls = config.algorithm.total_calls(config.rollout.num_steps)
    training = config.training
    images = calls.images_per_prompt // calls.passes_per_prompt
    texts = training.pass_size if calls.crosses_texts else 1
    rolled_out = config.sampled_per_pass
    sampling = 1 / config.rollout.reuse if rolled_out else 0.0
    return Schedule(
        images=training.pass_size * images,
        decoded=training.pass_size * images // calls.rollout_parts,
        samples=training.pass_size * (calls.rows_with_gradient or images) * texts,
        rolled_out=rolled_out,
        sampling=sampling,
        forward=calls.forward * sampling,
        compared=calls.compared,
        losses=calls.losses,
        in_flight=min(config.losses_in_flight, calls.losses),
        chained=calls.chained,
        mean_chained=calls.mean_chained,
        forward_size=calls.forward_size,
        gradient_size=calls.gradient_size,
        decodes=calls.decodes,
        scores_per_image=calls.scores_per_image,
        guidance_scale=config.rollout.guidance_scale if calls.guidance_scale is None else calls.guidance_scale,
        phases=calls.phases,
        optimizer_steps=calls.optimizer_steps,
        decodings=calls.decodings,
        measured=calls.measured,
        kept=calls.kept,
        pairs=training.pass_size * calls.pairs,
    )


def rollout_notes(config: RunConfig) -> tuple[str, ...]:
    """Notes on rollouts that are in no update's figures."""
    skipped = "what rollout.cache_threshold saves, which depends on the images; all blocks of a rollout are counted"
    low = (
        "the time that rollout.base saves, and a layer's quantised inputs and unscaled outputs, which fusion may avoid:"
        f" rollouts count as in {config.model.dtype}"
    )
    notes = (skipped,) if config.rollout.cache_threshold is not None else ()
    notes += (low,) if config.rollout.base else ()
    if config.rollout.source == "policy":
        return notes
    calls, most = config.rollout.num_steps, config.training.num_updates * config.training.batch_size
    return (
        *notes,
        f"images of the base model: at most {most}, of {calls} transformer calls each, sampled once before the first"
        " update by all workers and shared with other runs, are not counted",
    )


def evaluations(config: RunConfig, made: int = 0, *, evaluated: bool = False) -> int:
    """Count the evaluations of a run: the base model, one per interval and after the last update; tests not counted.

    Args:
        config: The run.
        made: Updates of the run that it continues.
        evaluated: True if it takes over the evaluation of the base model.
    """
    return (not evaluated) + intervals(made, config.training.num_updates, config.evaluation.interval)


def intervals(made: int, last: int, interval: int) -> int:
    """Count the multiples of an interval after some updates and up to the last one, which counts in any case."""
    return -(-last // interval) - made // interval


def evaluated_images(evaluation: EvaluationConfig, config: RunConfig) -> int:
    """Count the images of the largest batch of a worker's share of an evaluation."""
    if not evaluation.num_prompts:
        return evaluation.batch_size
    workers = config.training.min_workers // config.training.context_parallel
    share = -(-evaluation.num_prompts * evaluation.samples_per_prompt // workers)
    return min(evaluation.batch_size, share)


def rollout_batches(config: RunConfig) -> int:
    """Batches in which one worker samples its images of an update, with most workers."""
    return -(-micro_batches(config) // config.rollout_passes)


def rollout_images(config: RunConfig) -> int:
    """Images in the largest transformer call of a rollout."""
    return config.sampled_per_pass * min(config.rollout_passes, micro_batches(config))


def micro_batches(config: RunConfig) -> int:
    """Micro-batches of one worker in an update, with most workers."""
    return _passes(config, config.training.data_workers)


def largest_share(config: RunConfig) -> int:
    """Micro-batches of one worker in an update, with fewest workers, where a worker has the most."""
    return _passes(config, config.training.min_workers // config.training.context_parallel)


def _passes(config: RunConfig, workers: int) -> int:
    parts = config.algorithm.total_calls(config.rollout.num_steps).passes_per_prompt
    return config.training.num_passes(workers, parts)

"""Sampling of the base model's images before the first update, if the cache lacks them."""

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from srpo_ray.config import RunConfig
from srpo_ray.data.cache.text_features import TextCache
from srpo_ray.data.mixture import SampleOrder
from srpo_ray.data.rollouts import BaseRollouts, Item, RolloutCache
from srpo_ray.data.texts import Texts
from srpo_ray.models.attention import set_attention
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.models.trainable import load_base, make_policy, model_dtype
from srpo_ray.runs.activity import end_activity, report_activity
from srpo_ray.runs.collectives import from_worker_0, gather, rank_and_world_size
from srpo_ray.runs.folder import RunFolder

_PART = 16
"""Images that a worker samples between two cache lookups: a few minutes of FLUX.1 at 1024 x 1024 pixels."""

Sampler = Callable[[Sequence[Item]], Tensor]


def needed_images(config: RunConfig, texts: Texts, start: int = 0) -> dict[int, Item]:
    """Find the images of the base model that the updates of a run use: position in the order of use -> image.

    Args:
        config: The run.
        texts: Its texts.
        start: Updates made.
    """
    num_real, num_prompts = len(texts.images.captions) if texts.images else 0, len(texts.prompts)
    order = SampleOrder(num_real, num_prompts, config.data.image_ratio, config.rollout.images_per_prompt)
    training = config.training
    numbers = {
        index - num_real
        for update in range(start, training.num_updates)
        for index in order.indices(update, training.batch_size, config.seed)
        if index >= num_real
    }
    conditioning = texts.training.conditioning
    return {number: Item(conditioning[number % num_prompts], number // num_prompts) for number in sorted(numbers)}


def prepare_base_rollouts(
    config: RunConfig, texts: Texts, features: TextCache, folder: RunFolder, device: str, start: int = 0
) -> BaseRollouts:
    """Let every worker sample its share of the images that the cache lacks. The base model is loaded only meanwhile.

    Args:
        config: The run.
        texts: Its texts.
        features: Cache of their features.
        folder: Run folder, for the progress.
        device: Device of the model.
        start: Updates made.

    Raises:
        ValueError: If the model cannot be read.
    """
    cache, needed = RolloutCache(config), needed_images(config, texts, start)

    def find_missing() -> list[Item]:
        missing = cache.missing(list(needed.values()))
        # Runs that start together each use a different order and skip images that the others have written meanwhile.
        random.SystemRandom().shuffle(missing)
        return missing

    missing = from_worker_0(find_missing)
    if missing:
        sample_missing(config, cache, missing, load_sampler(config, texts, features, cache, device), folder)
        if device != "cpu":
            torch.cuda.empty_cache()
    return cache.tokens(needed)


def sample_missing(
    config: RunConfig, cache: RolloutCache, missing: list[Item], sample: Sampler, folder: RunFolder
) -> None:
    """Sample images in parts, one per worker and round, until the cache has all of them. All workers must call.

    Args:
        config: The run.
        cache: Cache that receives the images.
        missing: Images, in the same order on every worker.
        sample: Function from images to clean tokens.
        folder: Run folder, for the progress.
    """
    (rank, world_size), total = rank_and_world_size(), len(missing)
    size = config.base_batch_size * max(1, _PART // config.base_batch_size)
    while missing:
        if rank == 0:
            report_activity(folder, "images of the base model", total - len(missing), total)
        part, rest = missing[rank * size : (rank + 1) * size], missing[size * world_size :]
        if part:
            cache.add(part, sample(part))
        # Workers synchronise after each part, because a collective has a timeout.
        gather(None)
        missing = from_worker_0(lambda rest=rest: cache.absent(rest))
    if rank == 0:
        end_activity(folder)


def load_sampler(config: RunConfig, texts: Texts, features: TextCache, cache: RolloutCache, device: str) -> Sampler:
    """Load the base model. It stays in memory for as long as the returned function does."""
    transformer = load_base(config, model_dtype(config), device).eval()
    set_attention(transformer, config.model.attention)
    policy = make_policy(config, transformer, transformer.config, device)
    if texts.guidance:
        policy.empty_prompt = features.features(texts.guidance)[[0]]
    rollout = config.rollout
    sigmas = sigma_grid(config.model)(rollout.num_steps, rollout.shift)
    size = config.base_batch_size
    places = {text: row for row, text in enumerate(texts.training.conditioning)}
    conditioning = features.features(texts.training.conditioning)

    def sample_batch(items: Sequence[Item]) -> Tensor:
        # Every call has the same shape, so that an image does not depend on the number of images in its batch.
        padded = [*items, *[items[-1]] * (size - len(items))]
        prompts = conditioning[[places[item.text] for item in padded]].to(policy.device, policy.dtype)
        tokens = policy.rollout(
            policy.noise(cache.noises(padded)), prompts, sigmas, rollout.guidance_scale, rollout.cache_threshold
        )
        return tokens[: len(items)].cpu()

    return lambda items: torch.cat([sample_batch(items[start : start + size]) for start in range(0, len(items), size)])

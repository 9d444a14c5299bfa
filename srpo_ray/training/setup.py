"""From a config to a `Trainer`: everything that a worker loads before its first update."""

from pathlib import Path

import torch
from torch import distributed as dist

from srpo_ray.algorithms import build_algorithm
from srpo_ray.config import RunConfig
from srpo_ray.data.embeddings import load_or_encode
from srpo_ray.data.images import load_images
from srpo_ray.data.prompts import load_prompts
from srpo_ray.evaluation.panel import Panel
from srpo_ray.flow import shift_at
from srpo_ray.models.flux import takes_guidance
from srpo_ray.models.text import Conditioning
from srpo_ray.models.tuned import load_tuned, make_policy, model_dtype
from srpo_ray.rewards.base import RewardScorer
from srpo_ray.training.checkpoint import Checkpoint
from srpo_ray.training.engine import Engine
from srpo_ray.training.meters import MeanMeter, StageTimer
from srpo_ray.training.run_folder import RunFolder
from srpo_ray.training.trainer import Prompts, Trainer


def build_trainer(
    config: RunConfig, folder: RunFolder, rewards: RewardScorer, device: str, checkpoint: Checkpoint | None
) -> Trainer:
    """Load the model, shard it, and connect it with prompts, rewards, algorithm and panel.

    Args:
        config: The run.
        folder: Where it writes.
        rewards: Scores of trained and held-out models.
        device: Where this worker trains.
        checkpoint: What to go on from; None starts with the model's own weights.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    dtype = model_dtype(config)
    images = load_images(config.data.images) if config.data.images else None
    texts = images.captions if images else load_prompts(config.data.prompts)
    judged = load_prompts(config.evaluation.prompts, "evaluation.prompts")[: config.evaluation.num_prompts]
    # Before the transformer: FLUX's text encoders take 9 GiB, and are gone when it comes.
    conditioning = _encode(config, [*texts, *judged], dtype, device, Path(config.run_root) / "cache")
    engine, guidance_embeds = _build_engine(config, dtype, device, checkpoint)
    policy = make_policy(config, engine, guidance_embeds=guidance_embeds, device=device)
    panel = Panel(
        config.evaluation,
        judged,
        conditioning[len(texts) :],
        shift=shift_at(config.rollout.shift, config.model.resolution),
        truth=config.evaluation.prompts.startswith("small_world:"),
        trained_words=config.trained_words,
        rank=rank,
        world_size=world_size,
    )
    return Trainer(
        config=config,
        folder=folder,
        engine=engine,
        policy=policy,
        rewards=rewards,
        algorithm=build_algorithm(config, policy, rewards),
        panel=panel,
        prompts=Prompts(texts, conditioning[: len(texts)], images),
        rank=rank,
        world_size=world_size,
        timer=StageTimer(),
        meter=MeanMeter(device),
    )


def _build_engine(
    config: RunConfig, dtype: torch.dtype, device: str, checkpoint: Checkpoint | None
) -> tuple[Engine, bool]:
    transformer = load_tuned(config, dtype, device, checkpoint.weights if checkpoint else None).train()
    if config.model.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    engine = Engine(transformer, config.training, dtype)
    if checkpoint:
        engine.load(checkpoint.weights, checkpoint.optimizer, checkpoint.step, checkpoint.average)
    return engine, takes_guidance(transformer)


def _encode(config: RunConfig, prompts: list[str], dtype: torch.dtype, device: str, cache: Path) -> Conditioning:
    """Worker 0 encodes what the cache lacks; the others wait and read."""
    arguments = (config.model.path, prompts, config.model.max_sequence_length, dtype, device, cache)
    if dist.get_rank() == 0:
        load_or_encode(*arguments)
    dist.barrier()
    return load_or_encode(*arguments)

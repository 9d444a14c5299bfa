"""Setup of a `Trainer` from a config: everything that a worker loads before its first update."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from srpo_ray.algorithms import build_algorithm
from srpo_ray.config import RunConfig
from srpo_ray.config.algorithms.control_words import ControlWords
from srpo_ray.data.cache.text_features import TextCache
from srpo_ray.data.mixture import Prompts
from srpo_ray.data.rollouts import BaseRollouts
from srpo_ray.data.sizes import prompt_size
from srpo_ray.data.texts import Texts, read_texts
from srpo_ray.models.attention import compile_blocks, set_attention
from srpo_ray.models.context_parallel import context_mesh, share_tokens
from srpo_ray.models.families import family_of
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.models.rollout_base import RolloutBase
from srpo_ray.models.tiny_decoder import load_decoder
from srpo_ray.models.trainable import check_trained, load_tuned, make_policy, model_dtype
from srpo_ray.rewards.base import RewardScorer
from srpo_ray.rewards.group import GroupRewards
from srpo_ray.runs.activity import EVALUATION, TEST, report_activity
from srpo_ray.runs.checkpoint import Checkpoint
from srpo_ray.runs.collectives import rank_and_world_size
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.inputs import contrast_hashes, require_same_inputs, text_hashes
from srpo_ray.runs.other_model import contrast_weights
from srpo_ray.training.base_rollouts import prepare_base_rollouts
from srpo_ray.training.engine import Engine
from srpo_ray.training.evaluation import make_evaluator
from srpo_ray.training.meters import MeanMeter, StageTimer
from srpo_ray.training.prepare import prepare_features, prepare_image_sizes, prepare_latents
from srpo_ray.training.rollouts import resume_rollouts
from srpo_ray.training.sharded_loading import load_into_shards, loads_into_shards
from srpo_ray.training.trainer import Trainer


def build_trainer(
    config: RunConfig,
    folder: RunFolder,
    rewards: RewardScorer,
    device: str,
    checkpoint: Checkpoint | None,
    *,
    base_first: bool = False,
    words: Mapping[str, ControlWords] | None = None,
) -> Trainer:
    """Load the model, shard it, and connect it with prompts, rewards, algorithm and evaluator.

    Args:
        config: The run.
        folder: Folder of the run.
        rewards: Scorer with the trained and the held-out models.
        device: Device of this worker.
        checkpoint: Checkpoint to resume from; None starts from the base model.
        words: Metric name -> control words of other runs, for which the base model's images are scored too.
        base_first: Keep the base model's weights until the caller has evaluated them and calls `Trainer.resume`.

    Raises:
        ValueError: If this host reads different prompts or captions, or another model to contrast with, than the run
            started with.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    data_rank, data_workers = config.training.data_parallel(rank, world_size)
    texts = read_texts(config)
    # A file may have changed since the driver's check, or this host may have a different copy.
    read = text_hashes(config, texts) | contrast_hashes(config)
    require_same_inputs(folder.inputs, read, "give every host the same copy of it")
    # Encode before loading the model, because the text encoders of FLUX.1 are nearly as large.
    cache = prepare_features(config, texts.encoded, folder, device)
    base_model = config.rollout.source == "base_model"
    start = checkpoint.update if checkpoint else 0
    rollouts = prepare_base_rollouts(config, texts, cache, folder, device, start) if base_model else None
    workers = config.training.context_parallel
    mesh = context_mesh(workers, device) if workers > 1 else None
    if mesh:
        rewards = GroupRewards(rewards, mesh["ulysses"].get_group())
    engine, policy = _load_policy(config, texts, cache, device, checkpoint, mesh)
    evaluator_of = partial(
        make_evaluator, config, features=cache.features, words=words, rank=data_rank, world_size=data_workers
    )
    progress_of = partial(_progress, folder, data_workers)
    tested = config.evaluation.tested
    algorithm = build_algorithm(config, policy, rewards)
    trainer = Trainer(
        config=config,
        folder=folder,
        engine=engine,
        policy=policy,
        rewards=rewards,
        algorithm=algorithm,
        evaluator=evaluator_of(config.evaluation, texts.validation, progress=progress_of(EVALUATION)),
        tester=evaluator_of(tested, texts.test, progress=progress_of(TEST)) if tested else None,
        prompts=make_prompts(config, texts, cache, policy, rollouts, folder),
        rollouts=resume_rollouts(config, None, device),
        rank=rank,
        world_size=world_size,
        timer=StageTimer(device),
        meter=MeanMeter(device),
    )
    if checkpoint and not base_first:
        trainer.resume(checkpoint)
    return trainer


def _progress(folder: RunFolder, shares: int, activity: str) -> Callable[[int, int], object]:
    """Report the progress of an evaluation by the share of worker 0: all shares are equal."""
    if rank_and_world_size()[0] > 0:
        return lambda _done, _total: None
    return lambda done, total: report_activity(folder, activity, done * shares, total * shares)


def _load_policy(
    config: RunConfig,
    texts: Texts,
    cache: TextCache,
    device: str,
    checkpoint: Checkpoint | None,
    mesh: DeviceMesh | None,
) -> tuple[Engine, FlowPolicy]:
    """Load the model and the other model of the contrast, and shard them."""
    engine, transformer_config = _build_engine(config, model_dtype(config), device, checkpoint, mesh)
    if config.evaluation.contrast_with:
        _load_contrast(config, engine)
    return engine, _make_policy(config, engine, transformer_config, texts, cache, device)


def _load_contrast(config: RunConfig, engine: Engine) -> None:
    """Load the other model of the contrast in evaluations. Each worker verifies its share of the files."""
    weights = contrast_weights(config, engine.shapes, rank_and_world_size())
    check_trained(engine.module, weights)
    engine.load_contrast(weights)


def _make_policy(
    config: RunConfig,
    engine: Engine,
    transformer_config: Mapping[str, Any],
    texts: Texts,
    cache: TextCache,
    device: str,
) -> FlowPolicy:
    policy = make_policy(config, engine, transformer_config, device)
    if config.rollout.base:
        policy.rollout_base = RolloutBase(engine.module, config.rollout.base, policy.block_lists)
    policy.training_decoder = load_decoder(config.model, model_dtype(config), device)
    if texts.guidance:
        policy.empty_prompt = cache.features(texts.guidance)[[0]]
    return policy


def make_prompts(
    config: RunConfig,
    texts: Texts,
    cache: TextCache,
    policy: FlowPolicy,
    rollouts: BaseRollouts | None,
    folder: RunFolder,
) -> Prompts:
    """Connect the training prompts with their features, given images, sizes and words.

    Args:
        config: The run.
        texts: Its texts.
        cache: Text features, with those of all its texts.
        policy: Model that encodes the given images.
        rollouts: Stored images of the base model, if the run trains on them.
        folder: Folder of the run, for warnings.
    """
    samples, sizes = texts.samples(config.rollout.images_per_prompt), config.model.all_sizes
    given, groups, judged = texts.given, texts.images_of_captions, texts.judged
    caption_sizes = prepare_image_sizes(config, given, groups, folder) if given else []
    prompt_sizes = [prompt_size(text, sizes, config.seed) for text in samples.prompts[len(caption_sizes) :]]
    return Prompts(
        samples.prompts,
        cache.features(samples.conditioning),
        prepare_latents(config, given, groups, caption_sizes, policy.encode, folder) if given else None,
        config.data.image_ratio,
        config.rollout.images_per_prompt,
        rollouts,
        labels=judged.labels if judged else None,
        other_conditioning=cache.features(texts.others) if texts.others else None,
        sizes=[*caption_sizes, *prompt_sizes] if len(sizes) > 1 else None,
        words=samples.words_over(config.trained_words),
        keys=samples.keys,
    )


def _build_engine(
    config: RunConfig, dtype: torch.dtype, device: str, checkpoint: Checkpoint | None, mesh: DeviceMesh | None
) -> tuple[Engine, Mapping[str, Any]]:
    # Load the initial weights even if a checkpoint replaces them: role `reference` uses them.
    sharded = loads_into_shards(config)
    transformer = (load_into_shards(config, dtype) if sharded else load_tuned(config, dtype, device, None)).train()
    if checkpoint:
        check_trained(transformer, checkpoint.weights)
    set_attention(transformer, config.model.attention)
    if mesh:
        share_tokens(transformer, mesh)
    if config.model.compile:
        compile_blocks(transformer, family_of(config.model.path).blocks)
    if config.model.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    algorithm = config.algorithm
    return Engine(
        transformer,
        config.training,
        dtype,
        roles=algorithm.roles,
        blocks=family_of(config.model.path).blocks,
        steps_per_update=algorithm.calls(config.rollout.num_steps).optimizer_steps,
    ), transformer.config

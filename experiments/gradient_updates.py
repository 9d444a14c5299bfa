"""Gradients of single updates of any method at the base model's weights, and the gradient of the expected reward."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist

from srpo_ray.algorithms import build_algorithm
from srpo_ray.config import RunConfig
from srpo_ray.data.cache.text_features import TextCache
from srpo_ray.data.texts import read_texts
from srpo_ray.flow import generator
from srpo_ray.models.policy import FlowPolicy
from srpo_ray.models.sigma_grid import sigma_grid
from srpo_ray.models.trainable import load_tuned, make_policy
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.query import TextQuery
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.meters import MeanMeter, StageTimer
from srpo_ray.training.rollouts import KeptRollouts
from srpo_ray.training.setup import make_prompts
from srpo_ray.training.trainer import Trainer

GRADIENT_CALL = 3
"""A call with gradient counts as three: one forward, and a backward of about twice its work."""
ROWS = 16
"""Images of a pass through the whole sampler."""


class InitialWeights:
    """Stand-in for the engine: all roles have the base model's weights, and gradients stay in the parameters."""

    @contextmanager
    def shown(self, role: str) -> Iterator[None]:
        """Show the same weights for each role."""
        yield

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Gather nothing: weights are whole."""
        yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to those of the parameters."""
        loss.backward()


@dataclass(frozen=True)
class World:
    """Model and trained rewards, which all methods share."""

    transformer: nn.Module
    policy: FlowPolicy
    rewards: LocalRewards

    @classmethod
    def load(cls, config: RunConfig) -> "World":
        """Load the base model and the rewards of a run; held-out evaluators are not among them."""
        torch.set_num_threads(1)
        transformer = load_tuned(config, torch.float32, "cpu", None).train()
        policy = make_policy(config, transformer, transformer.config, "cpu")
        return cls(transformer, policy, LocalRewards.load(config.rewards.models, factors=config.rewards.factors))

    def take_gradient(self) -> Tensor:
        """Return the gradient of all parameters `[D]`, and clear it."""
        parts = [torch.zeros_like(each) if each.grad is None else each.grad for each in self.transformer.parameters()]
        whole = torch.cat([part.flatten() for part in parts])
        self.transformer.zero_grad(set_to_none=True)
        return whole

    @torch.no_grad()
    def move(self, change: Tensor) -> None:
        """Add a vector `[D]` to the weights."""
        parameters = list(self.transformer.parameters())
        parts = change.split([each.numel() for each in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter += part.view_as(parameter)


def encode_texts(config: RunConfig) -> None:
    """Encode the training texts of a config that the cache lacks."""
    cache = TextCache.of(config)
    if missing := cache.missing(read_texts(config).trained.conditioning):
        cache.load_encoder("cpu")(missing)


def _join_group_of_one() -> None:
    """Let this process be the only worker, as the caches of images divide their work over a process group."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


class Updates:
    """Updates of one method, without an optimizer."""

    def __init__(self, config: RunConfig, world: World) -> None:
        """Connect the method with the world; the texts must be encoded."""
        texts, folder = read_texts(config), RunFolder(Path(config.run_root) / config.name)
        if texts.given:
            _join_group_of_one()
            folder.make()
        absent = cast(Any, None)
        self._world = world
        self.trainer = Trainer(
            config=config,
            folder=folder,
            engine=cast(Any, InitialWeights()),
            policy=world.policy,
            rewards=world.rewards,
            algorithm=build_algorithm(config, world.policy, world.rewards),
            evaluator=absent,
            prompts=make_prompts(config, texts, TextCache.of(config), world.policy, None, folder),
            rollouts=KeptRollouts(1),
            rank=0,
            world_size=1,
            timer=StageTimer(),
            meter=MeanMeter("cpu"),
        )

    @property
    def images_per_prompt(self) -> int:
        """Images of each prompt of an update."""
        return self.trainer.algorithm.calls.images_per_prompt

    def gradient(self, seed: int, update: int) -> tuple[Tensor, float]:
        """Compute the gradient of an update's loss, over all of its optimizer steps at the base model's weights.

        Args:
            seed: Seed of all draws; updates with different seeds are independent.
            update: Index of the update.

        Returns:
            Gradient `[D]`, and the velocity evaluations of the update, those with gradient three times.
        """
        config = self.trainer.config.model_copy(update={"seed": seed})
        trainer = replace(self.trainer, config=config, meter=MeanMeter("cpu"))
        self._world.policy.take_evaluations()
        rounds = trainer.collect(update)
        for part in range(trainer.algorithm.calls.optimizer_steps):
            for batch, share, collected in rounds:
                trainer.backward(trainer.algorithm.losses(batch, collected, part), share)
        cost = self._world.policy.take_evaluations()
        return self._world.take_gradient(), cost.forward + GRADIENT_CALL * cost.forward_backward


class ExpectedReward:
    """Objective: the mean trained reward of ODE samples of the training prompts.

    With control words it is the relative reward, on average over all words of the set.
    """

    def __init__(self, config: RunConfig, world: World, count: int) -> None:
        """Take model, sampler and prompts of a config.

        Args:
            config: The run.
            world: Its model and rewards.
            count: Prompts of a block, at most all.
        """
        self._world, self._config, self._count = world, config, count
        self._prompts = read_texts(config).prompts
        self._features = TextCache.of(config).features(self._prompts)
        self._sigmas = sigma_grid(config.model)(config.rollout.num_steps, config.rollout.shift)

    def gradient(self, block: int) -> tuple[Tensor, float]:
        """Estimate the gradient of minus the objective, through all steps of the sampler.

        Args:
            block: Index of the block; blocks have independent prompts and noises.

        Returns:
            Gradient `[D]` and mean reward.
        """
        total = 0.0
        for rewards in self._rewards(block):
            (-rewards.sum() / self._count).backward()
            total += rewards.detach().double().sum().item()
        return self._world.take_gradient(), total / self._count

    @torch.no_grad()
    def value(self, block: int) -> float:
        """Compute the mean reward with the noises of a block."""
        found = sum(rewards.double().sum().item() for rewards in self._rewards(block))
        return found / self._count

    def _rewards(self, block: int) -> Iterator[Tensor]:
        """Yield the rewards of the block's images, some at a time, with gradient if autograd is on."""
        policy, scale = self._world.policy, self._config.rollout.guidance_scale
        drawn = torch.randperm(len(self._prompts), generator=generator(block, "gradient prompts"))[: self._count]
        for rows in drawn.split(ROWS):
            noise = policy.noise([generator(block, "gradient noise", row) for row in rows.tolist()])
            clean = policy.integrate(noise, self._features[rows.tolist()], self._sigmas, scale)
            queries = [self._query(self._prompts[row]) for row in rows.tolist()]
            yield self._world.rewards.submit(policy.decode_for_training(clean), queries).result().total

    def _query(self, prompt: str) -> TextQuery:
        words = self._config.trained_words
        return TextQuery.relative(prompt, words.positive, words.negative) if words else TextQuery.plain(prompt)

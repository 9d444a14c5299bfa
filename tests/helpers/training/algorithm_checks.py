"""Checks of any algorithm: its calls counted, its gradients in plain torch, its first update in parts."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from srpo_ray.algorithms import Batch, build_algorithm
from srpo_ray.algorithms.base import LossOutput
from srpo_ray.config import RunConfig
from srpo_ray.config.algorithms.roles import Role
from srpo_ray.data.mixture import real_samples
from srpo_ray.flow import Draws
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.trainable import load_tuned, make_policy
from srpo_ray.rewards.base import RewardScorer
from srpo_ray.training.rollouts import KeptRollouts
from srpo_ray.training.trainer import Trainer
from tests.helpers.algorithms.stand_ins import SHAPE, AffinePolicy, UnaskedRewards, collect_all


class CountingPolicy(AffinePolicy):
    """Keeps how many samples each call of the model has."""

    def __init__(self) -> None:
        super().__init__()
        self.samples: dict[bool, list[int]] = {False: [], True: []}
        """With gradient or without -> samples of each call."""

    def velocity(self, tokens: Tensor, sigma: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        self.samples[torch.is_grad_enabled()].append(len(tokens))
        return super().velocity(tokens, sigma, conditioning, guidance_scale)


@dataclass(frozen=True)
class Counted:
    """One update of one micro-batch."""

    forward: int
    forward_samples: int
    """Samples of all calls without gradient."""
    chained: float
    chained_samples: float
    """Samples of the calls with gradient in one loss."""
    losses: int
    samples: int
    """Samples of the largest call with gradient."""
    rolled_out: int
    """Samples of the largest call without gradient; 0 if there is none."""
    scored: int
    """Scored images."""
    kept: float
    """Tensors of tokens of an image that the losses get."""
    pairs: int
    """Pairs of images that are compared by a reward that compares pairs."""


def micro_batch(config: RunConfig, update: int, kept: KeptRollouts) -> Batch:
    """The first micro-batch of an update, with stand-ins for all tensors."""
    size, calls = config.training.pass_size, config.algorithm.calls(config.rollout.num_steps)
    children = range(calls.images_per_prompt // calls.passes_per_prompt)
    samples = tuple(sample for sample in range(size) for _ in children)
    rows = len(samples)
    is_real = real_samples(size, config.data.image_ratio if config.data.images else 0.0)
    base_model = config.rollout.source == "base_model"
    given = kept.tokens(update, range(size)) or [row for row, real in enumerate(is_real) if real or base_model]
    count, labels = 1, None
    if config.data.pairs:
        count, given = calls.given_images, list(range(rows))
        labels = torch.tensor([[1.0, 0.0][:count]] * rows)
    text = Conditioning(torch.zeros(rows, 1, 1), torch.zeros(rows, 1))
    return Batch(
        prompts=("a prompt",) * rows,
        conditioning=text,
        other_conditioning=text if config.algorithm.uses_own_captions else None,
        draws=Draws(config.seed, update, samples, children=tuple(children) * size),
        images=torch.zeros(rows, count, *SHAPE, dtype=torch.float64) if given else None,
        labels=labels,
        image_rows=tuple(given),
    )


def count(config: RunConfig, update: int, kept: KeptRollouts | None = None) -> Counted:
    """Run an update's micro-batch on the counting policy; the other parts of divided groups have rewards of 0."""
    policy: Any = CountingPolicy()
    rewards = UnaskedRewards()
    algorithm = build_algorithm(config, policy, cast(RewardScorer, rewards))
    kept = kept or KeptRollouts(config.rollout.reuse)
    batch, losses = micro_batch(config, update, kept), 0
    assert len(algorithm.phases) == algorithm.calls.phases
    group = range(algorithm.calls.images_per_prompt)
    others = {(sample, child): 0.0 for sample in batch.draws.samples for child in group}

    def gather(value: Any) -> list[Any]:
        return [others | value] if set(value) & set(others) else [value]

    (collected,) = collect_all(algorithm, [batch], gather)
    kept.keep(update, [(batch, 1.0, collected)])
    one = torch.empty(SHAPE, dtype=torch.float64).nbytes
    held = sum(size for shape, size in storages(collected).values() if shape[-len(SHAPE) :] == SHAPE)
    for part in range(algorithm.calls.optimizer_steps):
        losses += len(list(algorithm.losses(batch, collected, part)))
    without, carried = policy.samples[False], policy.samples[True]
    rolled_out, samples = max(without, default=0), max(carried)
    return Counted(
        forward=len(without),
        forward_samples=sum(without),
        chained=len(carried) / losses,
        chained_samples=sum(carried) / losses,
        losses=losses,
        samples=samples,
        rolled_out=rolled_out,
        scored=rewards.scored,
        kept=held / one / len(batch.prompts),
        pairs=rewards.pairs,
    )


def storages(value: Any) -> dict[int, tuple[tuple[int, ...], int]]:
    """Address of each storage of tensors in a value -> shape of one of its tensors, and bytes of the whole storage."""
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        return {storage.data_ptr(): (tuple(value.shape), storage.nbytes())}
    if is_dataclass(value) and not isinstance(value, type):
        return storages([getattr(value, field.name) for field in fields(value)])
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    found: dict[int, tuple[tuple[int, ...], int]] = {}
    for part in parts:
        found |= storages(part)
    return found


def plain_update(
    trainer: Trainer, update: int = 0, weights: dict[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], list[LossOutput]]:
    """Gradients and outputs of an update in plain torch: one process, and one backward pass over all losses.

    The reference has the initial weights, and every other role `weights`: by default the initial ones, which all roles
    have at the first update.
    """
    transformer = load_tuned(trainer.config, torch.float32, "cpu", None).train()
    initial = {name: value.clone() for name, value in transformer.state_dict().items()}

    def show(role: Role) -> None:
        transformer.load_state_dict(initial if role == "reference" else initial | (weights or {}))

    policy = make_policy(trainer.config, transformer, transformer.config, "cpu")
    algorithm = build_algorithm(trainer.config, policy, trainer.rewards)
    one = replace(trainer, policy=policy, algorithm=algorithm, rank=0, world_size=1)
    batches, shares = zip(*one.batches(update), strict=True)
    rounds = zip(batches, shares, collect_all(algorithm, batches, show=show), strict=True)
    show("policy")
    outputs = [(loss(), share) for batch, share, found in rounds for loss in algorithm.losses(batch, found)]
    torch.stack([output.loss * share for output, share in outputs]).sum().backward()
    gradients = {name: value.grad for name, value in transformer.named_parameters()}
    return gradients, [output for output, _ in outputs]


def first_update(trainer: Trainer) -> dict[str, Tensor]:
    """Make the first update part by part, for the gradients of its first optimizer step."""
    rounds, gradients = trainer.collect(0), {}
    for part in range(trainer.algorithm.calls.optimizer_steps):
        for batch, share, collected in rounds:
            trainer.backward(trainer.algorithm.losses(batch, collected, part), share)
        gradients = gradients or trainer.engine.gradients()
        trainer.engine.step()
    trainer.engine.refresh_old(trainer.algorithm.old_kept(0))
    trainer.meter.take()
    return gradients

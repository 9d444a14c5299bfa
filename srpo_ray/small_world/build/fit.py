"""Resumable training of one model of the small world."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from srpo_ray.files import replacing

SAVE_SECONDS = 120.0

Curve = list[tuple[int, float]]
"""Training curve: pairs of step and mean loss since the previous pair."""


@dataclass(frozen=True)
class Recipe:
    """Training settings of a model.

    Attributes:
        steps: optimizer steps, at least 1.
        lr: peak learning rate; warm-up over the first 3%, then cosine decay to zero.
        seed: seed of all random draws of this model.
        weight_decay: AdamW weight decay.
        ema: decay of the exponential moving average of the weights, which is the result.
    """

    steps: int
    lr: float
    seed: int
    weight_decay: float = 0.01
    ema: float = 0.998

    def scaled(self, scale: float) -> Recipe:
        """Return the recipe with `scale` times the steps, at least 2."""
        return Recipe(max(2, round(self.steps * scale)), self.lr, self.seed, self.weight_decay, self.ema)


def fit(model: nn.Module, loss: Callable[[torch.Generator], Tensor], recipe: Recipe, checkpoint: Path) -> Curve:
    """Minimise `loss` over the parameters of `model`, which ends with the EMA of the weights.

    Every step has its own seed, so an interrupted run makes the same draws as an uninterrupted one.

    Args:
        model: trained in place.
        loss: maps the step's random generator to a scalar.
        recipe: training settings.
        checkpoint: file for the state, written every two minutes and at the end; a finished one is only loaded.

    Returns:
        Training curve: about 100 pairs of step and mean loss since the previous pair.
    """
    torch.manual_seed(recipe.seed)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)
    losses: list[float] = []
    if checkpoint.is_file():
        losses = _load(checkpoint, model, average, optimizer)
    saved = time.monotonic()
    bar = tqdm(range(len(losses), recipe.steps), initial=len(losses), total=recipe.steps, desc=checkpoint.stem)
    for step in bar:
        losses.append(_step(model, average, optimizer, loss, recipe, step))
        bar.set_postfix(loss=f"{losses[-1]:.4f}", refresh=False)
        if step + 1 == recipe.steps or time.monotonic() - saved > SAVE_SECONDS:
            _save(checkpoint, model, average, optimizer, losses)
            saved = time.monotonic()
    model.load_state_dict(average.state_dict())
    return _downsample(losses)


def _step(
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[torch.Generator], Tensor],
    recipe: Recipe,
    step: int,
) -> float:
    warm_up = max(1, round(0.03 * recipe.steps))
    rate = min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / recipe.steps))
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr * rate
    value = loss(torch.Generator().manual_seed(recipe.seed * 1_000_003 + step))
    optimizer.zero_grad()
    value.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    # The decay starts low, so that the random initial weights soon leave the EMA.
    decay = min(recipe.ema, (step + 1) / (step + 10))
    with torch.no_grad():
        for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(parameter, 1 - decay)
    return float(value.detach())


def _save(
    path: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]
) -> None:
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with replacing(path) as unfinished:
        torch.save({**state, "losses": losses}, unfinished)


def _load(path: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return state["losses"]


def _downsample(losses: list[float], points: int = 100) -> Curve:
    width = max(1, len(losses) // points)
    chunks = [(start, losses[start : start + width]) for start in range(0, len(losses), width)]
    return [(start + len(chunk), round(sum(chunk) / len(chunk), 5)) for start, chunk in chunks]

"""Overhead of the framework: a whole SRPO update under it, over the same update in plain torch, on a CPU.

    python benchmarks/overhead.py [--rounds 7] [--skip-pool] [--json FILE]

Two models: the small world, whose rewards are scored in process and by the reward pool, and FLUX's structure (19 + 38
blocks with adapters) at the small world's width, in process. Plain torch has the same model, draws and arithmetic of
the algorithm, but no trainer, no DeepSpeed and no bridge to the rewards: autograd passes through the reward models, and
torch's AdamW makes the step. Both sides must end two updates with the same weights before anything is timed. The sides
alternate, and a ratio is that of medians. Goals: at most 1.10 in process, at most 1.05 with the pool, where rewards are
computed while the trainer works.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from flux_step import make_trainer, process_group
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from srpo_ray.algorithms import build_algorithm
from srpo_ray.config import RunConfig, load_run
from srpo_ray.launch.session import ray_session
from srpo_ray.models.exact_time import embed_exact_times
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.models.loading import load_transformer, load_vae
from srpo_ray.models.paths import SMALL_WORLD
from srpo_ray.models.trainable import add_adapters
from srpo_ray.planning.shapes import part_config
from srpo_ray.rewards.base import Reward, RewardScorer, Scores
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.pool.client import RewardClient
from srpo_ray.rewards.pool.pool import RewardPool
from srpo_ray.rewards.preprocess import frame_for_each
from srpo_ray.rewards.query import TextQuery
from srpo_ray.rewards.registry import build_rewards
from srpo_ray.search.publish import hardware
from srpo_ray.training.engine import Engine, restore_linear
from srpo_ray.training.trainer import Trainer

ROOT = Path(__file__).parent.parent
POOL = "overhead"
CHECKED, WARM_UP = 2, 1
"""Updates whose weights are compared, and updates of each round that are not counted."""
SAME = 1e-2
"""Greatest distance between the weights of both sides, as a share of the distance that training has moved them."""
CASES = {
    "small world": ["training.batch_size=8"],
    "FLUX's structure": [
        "training.batch_size=1",
        "training.losses_in_flight=1",
        "rollout.num_steps=4",
        "model.lora.rank=4",
        "model.gradient_checkpointing=true",
    ],
}
"""Models, with the overrides of the small world's config."""


@dataclass(frozen=True)
class DirectScore:
    """Scores of one call."""

    scores: Scores

    def result(self) -> Scores:
        """Return the scores."""
        return self.scores


class DirectRewards:
    """Reward models whose scores are connected to the images by autograd itself."""

    def __init__(self, rewards: dict[str, Reward], weights: dict[str, float]) -> None:
        self._rewards, self._weights = rewards, weights

    def submit(self, images: Tensor, queries: Sequence[TextQuery]) -> DirectScore:
        """Score images at once."""
        specs = {name: InputSpec.of(self._rewards[name]) for name in self._weights}
        pixels = frame_for_each(images, specs.values())
        raw = {name: self._rewards[name].score(pixels[spec], queries) for name, spec in specs.items()}
        total = torch.stack([self._weights[name] * score for name, score in raw.items()]).sum(0)
        return DirectScore(Scores(total, {name: score.detach() for name, score in raw.items()}))


class PlainTraining:
    """Updates in plain torch: the batches and the algorithm of a trainer, on a module of its own."""

    def __init__(self, trainer: Trainer, transformer: nn.Module, rewards: DirectRewards) -> None:
        config, policy = trainer.config, trainer.policy
        self._trainer, self._transformer = trainer, transformer
        plain: Any = transformer
        self._policy = FluxPolicy(
            plain, policy.vae, policy.transformer_config, resolution=config.model.size, dtype=torch.float32
        )
        scorer: Any = rewards
        self._algorithm = build_algorithm(config, self._policy, scorer)
        self._trained = {name: value for name, value in transformer.named_parameters() if value.requires_grad}
        optimizer = config.training.optimizer
        self._optimizer = torch.optim.AdamW(
            self._trained.values(),
            lr=optimizer.lr,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
        )

    def update(self, update: int) -> None:
        """Make one update."""
        in_flight = self._trainer.config.training.losses_in_flight or self._algorithm.calls.in_flight
        for batch, _ in self._trainer.batches(update):
            with torch.no_grad():
                collected = self._algorithm.collect(batch)
            waiting = self._algorithm.losses(batch, collected)
            while pending := list(islice(waiting, in_flight)):
                torch.stack([loss().loss for loss in pending]).sum().backward()
        nn.utils.clip_grad_norm_(self._trained.values(), self._trainer.config.training.optimizer.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def weights(self) -> dict[str, Tensor]:
        """Copy the trained weights."""
        return {name: value.detach().clone() for name, value in self._trained.items()}


def load(case: str, config: RunConfig) -> tuple[Any, dict[str, Any]]:
    """Transformer of a case, and its config."""
    settings = part_config(SMALL_WORLD, "transformer")
    if case == "small world":
        transformer: Any = load_transformer(SMALL_WORLD, torch.float32)
    else:
        settings = {**settings, "num_layers": 19, "num_single_layers": 38}
        torch.manual_seed(0)
        transformer = FluxTransformer2DModel.from_config(settings)
        embed_exact_times(transformer)
    if config.model.lora:
        add_adapters(transformer, config.model.lora, config.seed)
    if config.model.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    return transformer.train(), settings


def distance(found: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """Distance between two sets of weights, as a share of the distance from their start."""

    def norm(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
        return sum((first[name] - second[name]).double().pow(2).sum().item() for name in expected) ** 0.5

    return norm(found, expected) / norm(expected, start)


def measure(case: str, scorers: dict[str, RewardScorer], folder: Path, rounds: int) -> dict[str, Any]:
    """Check that both sides make the same updates, then alternate them."""
    config = load_run([str(ROOT / "configs" / "small_world.yaml")], CASES[case])
    transformer, settings = load(case, config)
    plain_transformer = deepcopy(transformer)
    start = {
        name: value.detach().clone() for name, value in plain_transformer.named_parameters() if value.requires_grad
    }
    engine = Engine(transformer, config.training, torch.float32)
    patched = nn.functional.linear
    vae = load_vae(SMALL_WORLD, torch.float32)
    trainers = {}
    for name, scorer in scorers.items():
        torch.manual_seed(0)
        trainers[name] = make_trainer(config, engine, vae, scorer, folder)
        trainers[name].policy.transformer_config = settings
    trainer = trainers["in process"]
    models = {model.name: model for model in config.rewards.models}
    direct = DirectRewards(dict(build_rewards([*models.values()], "cpu")), dict(config.rewards.factors))
    plain = PlainTraining(trainer, plain_transformer, direct)

    def framework(name: str) -> Callable[[int], object]:
        def update(number: int) -> None:
            nn.functional.linear = patched
            trainers[name].update(number)

        return update

    def plain_update(number: int) -> None:
        # DeepSpeed replaces this function of torch for the whole process.
        restore_linear()
        plain.update(number)

    for number in range(CHECKED):
        framework("in process")(number)
        plain_update(number)
    apart = distance(engine.weights(), plain.weights(), start)
    if not apart <= SAME:
        raise SystemExit(f"overhead: {case}: the sides do not make the same update: {apart:.2g} apart, limit {SAME}")
    seconds = alternate({"plain": plain_update, **{name: framework(name) for name in trainers}}, rounds)
    restore_linear()
    middle = {name: median(values) for name, values in seconds.items()}
    return {
        "case": case,
        "distance": apart,
        "seconds": middle,
        "spread": {name: [min(values), max(values)] for name, values in seconds.items()},
        "ratio": {name: middle[name] / middle["plain"] for name in trainers},
    }


def alternate(sides: dict[str, Callable[[int], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of one update of each side in each round, after updates that warm it up again."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, update in sides.items():
            for _ in range(WARM_UP):
                update(number)
            started = time.perf_counter()
            update(number)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def run(rounds: int, *, pool: bool) -> dict[str, Any]:
    """Measure both models."""
    config = load_run([str(ROOT / "configs" / "small_world.yaml")])
    factors = config.rewards.factors
    results = []
    with tempfile.TemporaryDirectory() as folder, process_group("cpu"):
        local = LocalRewards.load(config.rewards.models, factors=factors)
        results.append(measure("FLUX's structure", {"in process": local}, Path(folder), rounds))
        if pool:
            with ray_session(None), RewardPool.create(config.rewards.models, (), config.rewards.pool, POOL):
                scorers: dict[str, RewardScorer] = {"in process": local, "pool": RewardClient.connect(POOL, factors)}
                results.append(measure("small world", scorers, Path(folder), rounds))
        else:
            results.append(measure("small world", {"in process": local}, Path(folder), rounds))
    return {"hardware": hardware(), "torch": torch.__version__, "rounds": rounds, "results": results}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--skip-pool", action="store_true", help="without the reward pool, and so without Ray")
    parser.add_argument("--json", type=Path)
    parsed = parser.parse_args()
    started = time.monotonic()
    found = run(parsed.rounds, pool=not parsed.skip_pool)
    table = Table(title=f"Whole update over plain torch, {found['hardware']}, {parsed.rounds} rounds")
    for column in ("model", "rewards", "framework, s", "plain torch, s", "ratio", "weights apart"):
        table.add_column(column, justify="left" if column in ("model", "rewards") else "right")
    for each in found["results"]:
        for name, ratio in each["ratio"].items():
            seconds = [f"{each['seconds'][side]:.3f}" for side in (name, "plain")]
            table.add_row(each["case"], name, *seconds, f"{ratio:.3f}", f"{each['distance']:.1e}")
    Console(width=110).print(table)
    print(f"took {time.monotonic() - started:.0f} s")
    if parsed.json:
        parsed.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

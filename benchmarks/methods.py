"""Velocity evaluations per second of every method, and its time over the same transformer calls in plain torch.

    python benchmarks/methods.py [--only NAME ...] [--updates 1] [--json FILE]

Every preset of `configs/algorithms`, and `configs/small_world.yaml` itself, makes updates in this process, with rewards
in process and one thread. The calls of the transformer and of the VAE's decoder in each update are recorded. Right
after the update, plain torch repeats them on modules of its own, with a backward pass after each call with gradient:
the seconds of the transformer's calls are the floor of the update. The rest is divided into the decoder's calls, the
reward models, the optimizer, and what remains: sampler arithmetic, random draws, losses and the framework.

Seconds are CPU seconds of the process, so other processes of the machine disturb them little: the clock of the update's
metrics `time/...`, from which those of the reward models and of the optimizer are, is replaced by that of the process.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch import distributed as dist

from srpo_ray.config import RunConfig, load_run
from srpo_ray.models.loading import hide_progress_bars
from srpo_ray.models.trainable import load_tuned, model_dtype
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder
from srpo_ray.search.publish import hardware
from srpo_ray.training.engine import restore_linear
from srpo_ray.training.setup import build_trainer

CONFIGS = Path(__file__).parent.parent / "configs"
BASE = CONFIGS / "small_world.yaml"
SRPO = "srpo"
PRESETS = {SRPO: [BASE]} | {path.stem: [BASE, path] for path in sorted((CONFIGS / "algorithms").glob("*.yaml"))}
"""Name of a method -> files of its config."""
WARM_UP = 1
"""Updates of a method that are not counted."""
GRADIENT_EVALUATIONS = 3
"""Evaluations that one with gradient counts as: a backward pass takes about as long as two forward passes."""
STAGES = ("rollout", "forward", "score", "backward", "optimizer")


@dataclass(frozen=True)
class Call:
    """Call of a module."""

    positional: tuple[Any, ...]
    keywords: Mapping[str, Any]
    gradient: bool
    """True if a backward pass follows."""


@dataclass(frozen=True)
class Speed:
    """Updates of a method, in means per update; seconds are CPU seconds."""

    method: str
    images: int
    """Images that an update trains on."""
    forward: float
    """Velocity evaluations of one image without gradient."""
    forward_backward: float
    """Velocity evaluations of one image with gradient."""
    update_s: float
    transformer_s: float
    """Seconds of the transformer's calls in plain torch."""
    decoder_s: float
    """Seconds of the decoder's calls in plain torch."""
    rewards_s: float
    """Seconds of the reward models."""
    optimizer_s: float
    """Seconds of the optimizer's steps."""
    stages: Mapping[str, float]
    """Seconds of the stages of an update, which contain those of the modules."""

    @property
    def evaluations(self) -> float:
        """Evaluations of an update, where one with gradient counts as three."""
        return self.forward + GRADIENT_EVALUATIONS * self.forward_backward

    @property
    def rest_s(self) -> float:
        """Seconds of an update in no module: samplers, draws, losses, framework."""
        return self.update_s - self.transformer_s - self.decoder_s - self.rewards_s - self.optimizer_s

    @property
    def ratio(self) -> float:
        """Seconds of an update over those of its transformer calls in plain torch."""
        return self.update_s / self.transformer_s

    @property
    def own_ratio(self) -> float:
        """Ratio without decoder and rewards, which are the method's choice."""
        return (self.update_s - self.decoder_s - self.rewards_s) / self.transformer_s

    def to_json(self) -> dict[str, Any]:
        """Convert all figures to plain values."""
        return asdict(self) | {
            "evaluations_per_second": self.evaluations / self.update_s,
            "forward_per_second": self.forward / self.update_s,
            "forward_backward_per_second": self.forward_backward / self.update_s,
            "images_per_second": self.images / self.update_s,
            "rest_s": self.rest_s,
            "ratio": self.ratio,
            "own_ratio": self.own_ratio,
        }


def record(module: nn.Module) -> list[Call]:
    """Record the calls of a module from now on, with constants for their inputs."""
    calls: list[Call] = []

    def add(_: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        inputs = [*positional, *keywords.values()]
        trained = any(parameter.requires_grad for parameter in module.parameters())
        gradient = torch.is_grad_enabled() and (trained or any(_has_gradient(value) for value in inputs))
        calls.append(
            Call(
                tuple(_constant(value) for value in positional),
                {name: _constant(value) for name, value in keywords.items()},
                gradient,
            )
        )

    module.register_forward_pre_hook(add, with_kwargs=True)
    return calls


def _has_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _constant(value: Any) -> Any:
    """Detach a tensor from its graph; one that had a gradient needs it in a repetition too."""
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


def repeat(module: nn.Module, calls: Sequence[Call]) -> float:
    """Make recorded calls again, each with its backward pass, and return their CPU seconds."""
    module.zero_grad(set_to_none=True)
    started = time.process_time()
    for call in calls:
        with torch.set_grad_enabled(call.gradient):
            found = module(*call.positional, **call.keywords)
        if call.gradient:
            result = found[0] if isinstance(found, tuple) else found
            result.backward(torch.ones_like(result))
    return time.process_time() - started


def _samples(calls: Iterable[Call]) -> tuple[float, float]:
    """Count the images in calls of a transformer, without gradient and with it."""
    counts = {False: 0.0, True: 0.0}
    for call in calls:
        counts[call.gradient] += len(call.keywords["hidden_states"])
    return counts[False], counts[True]


def measure(method: str, config: RunConfig, rewards: LocalRewards, folder: Path, updates: int) -> Speed:
    """Alternate updates of a method and their calls in plain torch."""
    trainer = build_trainer(config, RunFolder(folder), rewards, "cpu", None)
    framework_linear = nn.functional.linear
    transformer, decoder = load_tuned(config, model_dtype(config), "cpu", None).train(), trainer.policy.vae.decoder
    plain_decoder = deepcopy(decoder)
    transformer_calls, decoder_calls = record(trainer.engine.module), record(decoder)
    rows: list[dict[str, float]] = []
    for update in range(WARM_UP + updates):
        transformer_calls.clear()
        decoder_calls.clear()
        nn.functional.linear = framework_linear
        with patch("time.perf_counter", time.process_time):
            row = trainer.update(update)
        # DeepSpeed replaces this function of torch for the whole process.
        restore_linear()
        made, counted = _samples(transformer_calls), (row["cost/forward"], row["cost/forward_backward"])
        if made != counted:
            raise SystemExit(f"methods: {method}: recorded {made} evaluations of an update that counts {counted}")
        plain = {"transformer": repeat(transformer, transformer_calls), "decoder": repeat(plain_decoder, decoder_calls)}
        rows.append(row | plain)
    mean = {name: sum(row[name] for row in rows[WARM_UP:]) / updates for name in rows[0]}
    return Speed(
        method=method,
        images=config.training.batch_size * trainer.algorithm.calls.images_per_prompt,
        forward=mean["cost/forward"],
        forward_backward=mean["cost/forward_backward"],
        update_s=mean["time/update"],
        transformer_s=mean["transformer"],
        decoder_s=mean["decoder"],
        rewards_s=mean["time/reward_wait"],
        optimizer_s=mean["time/optimizer"],
        stages={stage: mean[f"time/{stage}"] for stage in STAGES},
    )


def run(methods: Sequence[str], updates: int) -> list[Speed]:
    """Measure methods one after the other."""
    # DeepSpeed needs a group, and reads the environment.
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    loaded: dict[Any, LocalRewards] = {}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for method in methods:
            config = load_run([str(path) for path in PRESETS[method]], [f"run_root={folder}"])
            models = config.rewards.models
            if models not in loaded:
                loaded[models] = LocalRewards.load(models, factors=config.rewards.factors)
            found.append(measure(method, config, loaded[models], Path(folder) / method, updates))
    dist.destroy_process_group()
    return found


def table_of(speeds: Sequence[Speed], title: str) -> Table:
    """Table with a row per method; shares are of the seconds of an update."""
    table = Table(title=title)
    columns = (
        *("method", "images", "forward", "with gradient", "eval./s", "forward/s", "gradient/s", "images/s"),
        *("update, s", "ratio", "own ratio", "transformer", "decoder", "rewards", "optimizer", "rest"),
    )
    for column in columns:
        table.add_column(column, justify="left" if column == "method" else "right")
    for each in speeds:
        seconds = (each.transformer_s, each.decoder_s, each.rewards_s, each.optimizer_s, each.rest_s)
        rates = (each.evaluations, each.forward, each.forward_backward, each.images)
        table.add_row(
            each.method,
            str(each.images),
            f"{each.forward:.0f}",
            f"{each.forward_backward:.0f}",
            *(f"{amount / each.update_s:.0f}" for amount in rates[:3]),
            f"{rates[3] / each.update_s:.1f}",
            f"{each.update_s:.2f}",
            f"{each.ratio:.2f}",
            f"{each.own_ratio:.2f}",
            *(f"{part / each.update_s:.0%}" for part in seconds),
        )
    return table


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PRESETS, default=[*PRESETS], metavar="NAME", help="methods")
    parser.add_argument("--updates", type=int, default=1, help="counted updates of each method")
    parser.add_argument("--json", type=Path)
    parsed = parser.parse_args()
    if parsed.updates < 1:
        parser.error(f"--updates: expected at least 1, got {parsed.updates}")
    torch.set_num_threads(1)
    hide_progress_bars()
    started = time.monotonic()
    speeds = run(parsed.only, parsed.updates)
    title = f"Updates of each method, {hardware()}, one thread, {parsed.updates} updates"
    Console(width=180).print(table_of(speeds, title))
    print(f"took {time.monotonic() - started:.0f} s")
    if parsed.json:
        found = {"hardware": hardware(), "torch": torch.__version__, "updates": parsed.updates}
        parsed.json.write_text(json.dumps(found | {"methods": [each.to_json() for each in speeds]}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Host time of a gradient pass under the engine, over plain torch, for FLUX's structure at a small width.

    python benchmarks/host_time.py [--rounds 5] [--json FILE]

The transformer has FLUX.1's 19 and 38 blocks, so a pass has as many modules and Python hooks as that of FLUX.1. Its
width is 24, so arithmetic takes next to nothing. Times are CPU seconds of one process with one thread, the least of
all rounds. The limits of ZeRO-3, in elements, are scaled to the size of the model, so that it looks as many modules
ahead as with FLUX.1. The exit code is 1 if a ratio is above its goal.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import FluxTransformer2DModel
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch import distributed as dist

from srpo_ray.config.model import LoraConfig
from srpo_ray.config.training import TrainingConfig
from srpo_ray.models.families import FLUX
from srpo_ray.models.trainable import add_adapters
from srpo_ray.training import zero
from srpo_ray.training.engine import Engine, restore_linear
from srpo_ray.training.shards import forward_hooks

LAYERS, SINGLE_LAYERS = 19, 38
FLUX_PARAMETERS = 11_901_408_320
GOALS = {"adapters": 1.2, "all weights": 1.6}
"""Most CPU time of a pass under the engine, as a multiple of that in plain torch."""
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "adapters": {"default": {}, "ZeRO-3": {"zero_stage": 3}},
    "all weights": {
        "ZeRO-3, whole blocks": {"gather_blocks": True, "losses_in_flight": 1},
        "ZeRO-3": {"zero_stage": 3},
        "default of one worker": {},
    },
}
"""Ways to train adapters and all weights, by name; the goal is for the first of each."""


def transformer(trained: str) -> Any:
    """FLUX's structure with random weights."""
    torch.manual_seed(0)
    network: Any = FluxTransformer2DModel(
        in_channels=16,
        num_layers=LAYERS,
        num_single_layers=SINGLE_LAYERS,
        attention_head_dim=12,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 4),
    )
    if trained == "adapters":
        add_adapters(network, LoraConfig(rank=2), seed=0)
    network.train().enable_gradient_checkpointing()
    return network


def loss(network: Any) -> Tensor:
    """One forward pass of one image of four tokens."""
    return network(
        hidden_states=torch.ones(1, 4, 16),
        timestep=torch.ones(1),
        guidance=torch.ones(1),
        pooled_projections=torch.ones(1, 16),
        encoder_hidden_states=torch.ones(1, 2, 16),
        txt_ids=torch.zeros(2, 3),
        img_ids=torch.zeros(4, 3),
        return_dict=False,
    )[0].mean()


def least(one_pass: Callable[[], None], rounds: int) -> float:
    """CPU seconds of the fastest pass, after two that are not counted: ZeRO-3 records its trace in them."""
    seconds = []
    for _ in range(rounds + 2):
        start = time.process_time()
        one_pass()
        seconds.append(time.process_time() - start)
    return min(seconds[2:])


def plain_seconds(trained: str, rounds: int) -> float:
    """CPU seconds of a pass in plain torch."""
    restore_linear()
    network = transformer(trained)

    def one_pass() -> None:
        loss(network).backward()
        network.zero_grad()

    return least(one_pass, rounds)


def engine_row(trained: str, settings: dict[str, Any], rounds: int) -> dict[str, Any]:
    """CPU seconds of a pass under the engine, and the number of hooked modules."""
    restore_linear()
    network = transformer(trained)
    share = sum(parameter.numel() for parameter in network.parameters()) / FLUX_PARAMETERS
    limits = ("KEPT_WHOLE", "LIVE_PARAMETERS", "PREFETCHED")
    scaled: dict[str, Any] = {name: max(1, int(getattr(zero, name) * share)) for name in limits}
    with patch.multiple(zero, **scaled):
        engine = Engine(network, TrainingConfig(batch_size=1, **settings), torch.float32, blocks=FLUX.blocks)

    def one_pass() -> None:
        engine.backward(loss(engine))

    seconds = least(one_pass, rounds)
    hooked = sum(any(forward_hooks(module)) for module in network.modules())
    return {"seconds": seconds, "hooked_modules": hooked}


def measure(rounds: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Time every way, with the ratio to plain torch."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for trained, ways in WAYS.items():
        plain = plain_seconds(trained, rounds)
        rows[trained] = {"plain torch": {"seconds": plain, "hooked_modules": 0, "ratio": 1.0}}
        for name, settings in ways.items():
            row = engine_row(trained, settings, rounds)
            rows[trained][name] = {**row, "ratio": row["seconds"] / plain}
    return rows


def table(rows: dict[str, dict[str, dict[str, Any]]]) -> Table:
    """One line per way."""
    lines = Table(title="CPU seconds of one gradient pass, 19 + 38 blocks, checkpointed")
    for title in ("trained", "way", "seconds", "over plain torch", "goal", "hooked modules"):
        lines.add_column(title, justify="left" if title in ("trained", "way") else "right")
    for trained, ways in rows.items():
        for name, row in ways.items():
            goal = f"{GOALS[trained]:g}" if name == next(iter(WAYS[trained])) else ""
            figures = (f"{row['seconds']:.3f}", f"{row['ratio']:.2f}", goal, str(row["hooked_modules"]))
            lines.add_row(trained, name, *figures)
    return lines


def main() -> int:
    """Measure, print, write JSON, and compare with the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="passes, of which the fastest counts")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        rows = measure(options.rounds)
        dist.destroy_process_group()
    Console(width=120).print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return int(any(rows[trained][next(iter(WAYS[trained]))]["ratio"] > goal for trained, goal in GOALS.items()))


if __name__ == "__main__":
    raise SystemExit(main())

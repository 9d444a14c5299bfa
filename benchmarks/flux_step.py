"""Seconds, TFLOP/s and memory of an SRPO update of FLUX.1-dev at full size, with random weights: nothing to download.

    python benchmarks/flux_step.py [--resolutions 512 720 1024] [--batch-size 1] [--full] [--compile] [--json FILE]

One GPU holds both: the transformer, by LoRA or whole, in DeepSpeed ZeRO-3, and HPSv2.1's ViT-H in a Ray actor. The
updates are the real trainer's. `--tiny` takes the small world's model and reward; a CPU will do for that.
"""

import argparse
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch import distributed as dist

from srpo_ray.algorithms import build_algorithm
from srpo_ray.config import RunConfig, apply
from srpo_ray.data.mixture import Prompts
from srpo_ray.launch.session import ray_session
from srpo_ray.models.attention import check_attention, compile_blocks, set_attention
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.families import FLUX
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.models.loading import load_transformer, load_vae
from srpo_ray.models.paths import SMALL_WORLD
from srpo_ray.models.trainable import add_adapters, model_dtype
from srpo_ray.planning.cost import decoder_cost, forward_flops, gradient_flops
from srpo_ray.planning.shapes import build_transformer, build_vae, part_config
from srpo_ray.rewards.base import RewardScorer, Scores
from srpo_ray.rewards.pool.client import RewardClient
from srpo_ray.rewards.pool.pool import RewardPool
from srpo_ray.runs.folder import RunFolder
from srpo_ray.search.publish import hardware
from srpo_ray.training.engine import Engine
from srpo_ray.training.meters import MeanMeter, StageTimer
from srpo_ray.training.rollouts import KeptRollouts
from srpo_ray.training.trainer import Trainer

POOL = "flux_step"
SHARE_OF_GPU = 0.1
STAGES = ("rollout", "forward", "score", "backward", "update", "update")
PROMPT = "a photo of a lighthouse on a cliff at dawn, waves below"


@dataclass(frozen=True)
class InstantScore:
    """Scores of one call. Several calls may be pending, one for each branch."""

    scores: Tensor

    def result(self) -> Scores:
        """The scores of the call's images."""
        return Scores(self.scores, {"hps": self.scores.detach()})


class InstantRewards:
    """Scores at once: what is left of an update is the trainer's own."""

    def submit(self, images: Tensor, queries: Any) -> InstantScore:
        """Take the mean of each image for its score."""
        return InstantScore(images.float().mean((1, 2, 3)))

    def take_statistics(self) -> dict[str, float]:
        """There is nothing to count."""
        return {}


def config_of(options: argparse.Namespace, resolution: int) -> RunConfig:
    """The run of one resolution; SRPO's released settings but for the batch."""
    reward = {"type": "open_clip", "name": "hps"}
    pool = {"num_gpus": SHARE_OF_GPU, "micro_batch_size": 16}
    model = {
        "path": "black-forest-labs/FLUX.1-dev",
        "dtype": "bfloat16",
        "max_sequence_length": 512,
        "gradient_checkpointing": not options.no_checkpointing,
        "compile": options.compile,
        "attention": options.attention,
        "lora": None if options.full else {"rank": options.rank},
    }
    if options.tiny:
        model |= {"path": "small_world", "dtype": "float32", "max_sequence_length": 16}
        pool["num_gpus"] = 0
    models = [reward | {"path": "small_world:preference" if options.tiny else "set below"}]
    base = RunConfig.model_validate({"rewards": {"models": models, "pool": pool}})
    changes = {f"model.{key}": value for key, value in model.items()}
    changes |= {"model.resolution": resolution, "training.batch_size": options.batch_size}
    if options.full and options.compile:
        # The hooks of stage 3 do not compile, and one worker has nothing to shard.
        changes["training.zero_stage"] = 2
    return apply(base, changes | {"rollout.num_steps": options.steps, "training.optimizer.lr": 1e-5})


def hps_checkpoint(folder: Path) -> dict[str, str]:
    """HPSv2.1's file with random weights: where it is and what it is of."""
    import open_clip

    path, architecture = folder / "HPS_v2.1_compressed.pt", "ViT-H-14"
    weights = open_clip.create_model(architecture, pretrained=None).half().state_dict()
    torch.save({"state_dict": weights}, path)
    return {"path": str(path), "architecture": architecture}


def load_model(config: RunConfig, device: str) -> tuple[Any, Any]:
    """Transformer and VAE on the device: FLUX.1-dev with random weights, or the small world's own."""
    if config.model.path == SMALL_WORLD:
        transformer = load_transformer(SMALL_WORLD, torch.float32, device)
        vae = load_vae(SMALL_WORLD, torch.float32, device)
        if config.model.lora:
            add_adapters(transformer, config.model.lora, seed=0)
        return transformer.train(), vae
    transformer, vae = build_transformer(config.model), build_vae(config.model)
    for parameter in [*transformer.to_empty(device=device).parameters(), *vae.to_empty(device=device).parameters()]:
        # Vectors are biases and factors of norms.
        torch.nn.init.normal_(parameter, std=0.02) if parameter.ndim > 1 else torch.nn.init.ones_(parameter)
    return transformer, vae


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """A group of one process, as ZeRO needs one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    dist.init_process_group("nccl" if device == "cuda" else "gloo", init_method=address, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def make_trainer(config: RunConfig, engine: Engine, vae: Any, rewards: RewardScorer, folder: Path) -> Trainer:
    """The real trainer on one prompt, whose text features are drawn."""
    dtype, device, count = model_dtype(config), str(vae.device), config.training.batch_size
    transformer_config = part_config(config.model.path, "transformer")
    policy = FluxPolicy(engine, vae, transformer_config, resolution=config.model.size, dtype=dtype, device=device)
    length, width = config.model.max_sequence_length, transformer_config["joint_attention_dim"]
    pooled = torch.randn(count, transformer_config["pooled_projection_dim"])
    return Trainer(
        config=config,
        folder=RunFolder(folder),
        engine=engine,
        policy=policy,
        rewards=rewards,
        algorithm=build_algorithm(config, policy, rewards),
        evaluator=cast(Any, None),
        prompts=Prompts([PROMPT] * count, Conditioning(torch.randn(count, length, width), pooled)),
        rollouts=KeptRollouts(config.rollout.reuse),
        rank=0,
        world_size=1,
        timer=StageTimer(device),
        meter=MeanMeter(device),
    )


def median_update(trainer: Trainer, updates: int) -> dict[str, float]:
    """Medians of the metrics of some updates, after one that is not counted."""
    trainer.update(0)
    rows = [trainer.update(step) for step in range(1, updates + 1)]
    return {name: median(row[name] for row in rows) for name in rows[0]}


def seconds_of(work: Callable[[], object], device: str, rounds: int) -> float:
    """Median seconds of a piece of work, after one round that is not counted."""
    spent = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - start)
    return median(spent[1:])


def matrix_ceiling(device: str, dtype: torch.dtype) -> float:
    """TFLOP/s of one large matrix product: what this machine can do at best."""
    size = 8192 if device == "cuda" else 1024
    left, right = torch.randn(2, size, size, dtype=dtype, device=device)
    return 2 * size**3 / seconds_of(lambda: left @ right, device, 20) / 1e12


def measure(config: RunConfig, trainers: dict[str, Trainer], updates: int, ceiling: float) -> dict[str, Any]:
    """One resolution: seconds of each stage, TFLOP/s, memory, and what the remote reward adds."""
    trainer = trainers["remote"]
    device = trainer.policy.device.type
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    remote, instant = median_update(trainer, updates), median_update(trainers["instant"], updates)
    samples, branches = config.training.batch_size, trainer.algorithm.calls.in_flight
    tokens = torch.randn(samples, *trainer.policy.token_shape, device=device, requires_grad=True)
    decode = seconds_of(lambda: trainer.policy.decode(tokens).mean().backward(), device, updates)
    sizes, gpu = (224,), device == "cuda"
    decoding = decoder_cost(config.model, samples, sizes, gradient=True, gpu=gpu)
    rollout = samples * config.rollout.num_steps * forward_flops(config.model)
    gradient = samples * branches * gradient_flops(config.model)
    decoded = branches * (decoding.forward_flops + decoding.backward_flops)
    seconds = {stage: remote[f"time/{stage}"] for stage in STAGES} | {"decode": decode}
    tflops = {
        "rollout": rollout / remote["time/rollout"] / 1e12,
        "update": (rollout + gradient + decoded) / remote["time/update"] / 1e12,
    }
    return {
        "resolution": config.model.resolution,
        "batch_size": samples,
        "seconds": seconds,
        "seconds_per_rollout_step": remote["time/rollout"] / config.rollout.num_steps,
        "reward_round_trip_s": remote["time/reward_round_trip"],
        "reward_share": 1 - instant["time/update"] / remote["time/update"],
        "tflops": tflops,
        "share_of_ceiling": {name: value / ceiling for name, value in tflops.items()},
        "peak_gib": remote["memory/peak_gib"],
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all resolutions with one model and one pool."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    configs = [config_of(options, resolution) for resolution in options.resolutions]
    check_attention(configs[0].model.attention, device)
    dtype = model_dtype(configs[0])
    ceiling = matrix_ceiling(device, dtype)
    with tempfile.TemporaryDirectory() as folder, process_group(device), ray_session(None):
        if not options.tiny:
            published = hps_checkpoint(Path(folder))
            configs = [apply(c, {f"rewards.models.0.{key}": v for key, v in published.items()}) for c in configs]
        first = configs[0]
        transformer, vae = load_model(first, device)
        set_attention(transformer, first.model.attention)
        if first.model.compile:
            compile_blocks(transformer, FLUX.blocks)
        engine = Engine(transformer, first.training, dtype)
        rows = []
        with RewardPool.create(first.rewards.models, (), first.rewards.pool, POOL):
            client = RewardClient.connect(POOL, {"hps": 1.0})
            for config in configs:
                scorers: dict[str, Any] = {"remote": client, "instant": InstantRewards()}
                trainers = {
                    name: make_trainer(config, engine, vae, scorer, Path(folder)) for name, scorer in scorers.items()
                }
                rows.append(measure(config, trainers, options.updates, ceiling))
    return {
        "hardware": hardware(),
        "torch": torch.__version__,
        "options": vars(options) | {"json": None},
        "matrix_ceiling_tflops": ceiling,
        "rows": rows,
    }


def table(result: dict[str, Any]) -> Table:
    """One column per resolution."""
    title = f"{result['hardware']}, matrix product {result['matrix_ceiling_tflops']:.3g} TFLOP/s"
    lines = Table(title=title)
    lines.add_column("")
    for row in result["rows"]:
        lines.add_column(f"{row['resolution']} px", justify="right")

    def add(name: str, value: Callable[[dict[str, Any]], str]) -> None:
        lines.add_row(name, *(value(row) for row in result["rows"]))

    for stage in (*STAGES, "decode"):
        name = {"update": "whole update", "decode": "decode with gradient, alone"}.get(stage, stage)
        add(f"{name}, s", lambda row, stage=stage: f"{row['seconds'][stage]:.3f}")
    add("rollout step, s", lambda row: f"{row['seconds_per_rollout_step']:.4f}")
    for name in ("rollout", "update"):
        add(
            f"{name}, TFLOP/s",
            lambda row, name=name: f"{row['tflops'][name]:.3g} ({row['share_of_ceiling'][name]:.0%})",
        )
    add("reward round trip, s", lambda row: f"{row['reward_round_trip_s']:.3f}")
    add("remote reward's share of the update", lambda row: f"{row['reward_share']:.1%}")
    add("peak memory of the trainer, GiB", lambda row: f"{row['peak_gib']:.1f}")
    return lines


def main() -> None:
    """Read options, measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[512, 720, 1024])
    parser.add_argument("--batch-size", type=int, default=1, help="prompts per update")
    parser.add_argument("--steps", type=int, default=25, help="Euler steps of a rollout")
    parser.add_argument("--updates", type=int, default=3, help="updates that are counted, after one that is not")
    parser.add_argument("--rank", type=int, default=32, help="rank of the adapters")
    parser.add_argument("--full", action="store_true", help="train the whole transformer")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep activations, do not recompute them")
    parser.add_argument("--attention", default="native", help="see model.attention")
    parser.add_argument("--tiny", action="store_true", help="the small world's model, on a CPU if need be")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    result = run(options)
    Console(width=120).print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()

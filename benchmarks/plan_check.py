"""The plan's activations against what a GPU measures, for FLUX.1-dev with random weights: nothing is downloaded.

    python benchmarks/plan_check.py [--resolutions 256 512 720] [--depth 19 38] [--lora RANK] [--json FILE]

Each line is a part of an update on one GPU, as `torch.cuda.max_memory_allocated` saw it and as `srpo-ray plan`
counts it.
Full depth with all weights in training needs some 50 GB at 720 px; give `--depth 4 8` for a smaller GPU.
"""

import argparse
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from srpo_ray.config.model import LoraConfig, ModelConfig
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.flux import FluxPolicy
from srpo_ray.planning import published, shapes
from srpo_ray.planning.accounting import total
from srpo_ray.planning.cost import decoder_cost, peak_of_backward, transformer_cost
from srpo_ray.planning.hardware import GIB
from srpo_ray.planning.zero_shares import trained_elements
from srpo_ray.rewards.input_spec import InputSpec
from srpo_ray.rewards.preprocess import frame

TOLERANCE = 0.15
REWARD_SIZE = 224


def real_policy(model: ModelConfig) -> FluxPolicy:
    """The policy that the plan builds without data, with random weights on the GPU."""
    transformer: Any = _filled(shapes.build_transformer(model))
    return FluxPolicy(
        transformer,
        _filled(shapes.build_vae(model)),
        transformer.config,
        resolution=model.size,
        dtype=shapes.dtype_of(model),
        device="cuda",
    )


def _filled(module: Any) -> Any:
    module.to_empty(device="cuda")
    for parameter in module.parameters():
        nn.init.normal_(parameter.data, std=0.02)
    return module


def peak(compute: Callable[[], object]) -> int:
    """Most bytes that a computation held beyond what was there before."""
    compute()
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    compute()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def compare(model: ModelConfig, losses: int) -> list[dict[str, Any]]:
    """Every part measured and planned."""
    policy = real_policy(model)
    config = shapes.part_config(model.path, "transformer")
    features = Conditioning(
        torch.randn(1, model.max_sequence_length, config["joint_attention_dim"], dtype=policy.dtype, device="cuda"),
        torch.randn(1, config["pooled_projection_dim"], dtype=policy.dtype, device="cuda"),
    )
    noise, sigma = torch.randn(1, *policy.token_shape, device="cuda"), torch.full((1,), 0.9, device="cuda")
    for parameter in policy.network.parameters():  # type: ignore[attr-defined]
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_let_go)

    def image() -> Tensor:
        clean = noise - 0.1 * policy.velocity(noise, sigma, features, 3.5)
        return frame(policy.decode(clean), InputSpec(REWARD_SIZE))

    def update() -> None:
        torch.stack([image().mean() for _ in range(losses)]).sum().backward()

    @torch.no_grad()
    def sample() -> None:
        policy.velocity(noise, sigma, features, 3.5)

    @torch.no_grad()
    def decode() -> None:
        policy.decode(noise)

    call = transformer_cost(model, 1, gradient=True, gpu=True)
    decoder = decoder_cost(model, 1, (REWARD_SIZE,), gradient=True, gpu=True)
    trained = policy.dtype.itemsize * trained_elements(shapes.parameters(model))
    moment = peak_of_backward(call, decoder, losses=losses, chained=1, gradients=trained)
    planned = {
        "transformer, no gradient": (sample, transformer_cost(model, 1, gradient=False, gpu=True).peak),
        "decoder, no gradient": (decode, decoder_cost(model, 1, (REWARD_SIZE,), gradient=False, gpu=True).peak),
        f"gradient, {losses} losses at once": (update, total(moment)),
    }
    return [
        {"resolution": model.resolution, "part": part, "planned": bytes_, "measured": peak(compute)}
        for part, (compute, bytes_) in planned.items()
    ]


def _let_go(parameter: Tensor) -> None:
    parameter.grad = None


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default="black-forest-labs/FLUX.1-dev", help="a model whose config is known")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[256, 512, 720])
    parser.add_argument(
        "--depth", type=int, nargs=2, metavar=("DOUBLE", "SINGLE"), help="fewer blocks than the model's"
    )
    parser.add_argument("--lora", type=int, metavar="RANK", help="train adapters and not all weights")
    parser.add_argument("--losses", type=int, default=2, help="losses at once (default 2, SRPO's)")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations of the transformer")
    parser.add_argument("--json", type=Path)
    parsed = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("plan_check: expected a CUDA GPU, found none; run it where `nvidia-smi` shows one")
    if parsed.depth:
        shallow = dict(zip(shapes.DEPTHS, parsed.depth, strict=True))
        published.PIPELINES[parsed.path]["transformer"] |= shallow
    rows: list[dict[str, Any]] = []
    for resolution in parsed.resolutions:
        model = ModelConfig(
            path=parsed.path,
            dtype="bfloat16",
            resolution=resolution,
            max_sequence_length=512,
            lora=LoraConfig(rank=parsed.lora) if parsed.lora else None,
            gradient_checkpointing=not parsed.no_checkpointing,
        )
        rows += compare(model, parsed.losses)
        gc.collect()
        torch.cuda.empty_cache()
    table = Table(title=f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for column in ("px", "part", "planned", "measured", "planned / measured", f"within {TOLERANCE:.0%}"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for row in rows:
        ratio = row["planned"] / row["measured"]
        sizes = [f"{row[key] / GIB:.2f} GiB" for key in ("planned", "measured")]
        within = "yes" if abs(ratio - 1) <= TOLERANCE else "NO"
        table.add_row(str(row["resolution"]), row["part"], *sizes, f"{ratio:.3f}", within)
    Console(width=110).print(table)
    if parsed.json:
        parsed.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

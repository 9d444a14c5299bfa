"""Stages of the GPU day that measure the parts of an update. Each returns its rows."""

import copy
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import open_clip
import torch
from gpu_measure import DEVICE, GPU, Range, Row, free, row, timed
from gpu_models import Setting, ensure_process_group, inputs, make_policy, make_transformer, random_weights
from torch import Tensor, nn

from srpo_ray.config.training import TrainingConfig
from srpo_ray.models.attention import compile_blocks, set_attention
from srpo_ray.models.families import FLUX
from srpo_ray.planning.cost import decoder_cost, transformer_cost
from srpo_ray.planning.shapes import dtype_of
from srpo_ray.training.engine import Engine

REWARD_SIZE = 224
TINY_CLIP: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"layers": 2, "width": 64, "patch_size": 32, "image_size": REWARD_SIZE},
    "text_cfg": {"layers": 1, "width": 32, "heads": 2, "vocab_size": 64},
}


def at_720(setting: Setting, low: float, high: float) -> Range | None:
    """Predicted range at 720 px on an H100 or H200; other sizes and machines have no prediction."""
    known = GPU and not setting.tiny and setting.px == 720
    return (low, high) if known and any(name in torch.cuda.get_device_name() for name in ("H100", "H200")) else None


def env(setting: Setting) -> list[Row]:
    """Measure the ceiling of a matrix product, and read the driver."""
    size, dtype = 256 if setting.tiny else 8192, dtype_of(setting.model())
    left, right = torch.randn(2, size, size, dtype=dtype, device=DEVICE)
    product = timed("matrix product", lambda: left @ right, flops=2 * size**3, rounds=20)
    predicted = at_720(setting, 780.0, 800.0)
    ceiling = row(f"matrix product of {size} x {size}, {dtype}", "TFLOP/s", product["tflops"], predicted)
    if not GPU:
        return [ceiling]
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0]
    return [ceiling, row("NVIDIA driver, major version", "", float(version.split(".")[0]), (580.0, None))]


def roll(setting: Setting) -> list[Row]:
    """Measure one step of a rollout: base model, adapters, cuDNN's attention, compiled blocks."""
    ways: list[tuple[str, bool, str, bool, tuple[float, float]]] = [
        ("base model", False, "native", False, (0.11, 0.11)),
        ("adapters", True, "native", False, (0.11, 0.14)),
        ("adapters, cuDNN attention", True, "cudnn", False, (0.11, 0.14)),
        ("adapters, compiled", True, "native", True, (0.08, 0.09)),
    ]
    rows = []
    for name, adapters, attention, compiled, predicted in ways[:2] if setting.tiny else ways:
        model = setting.model(lora=setting.lora() if adapters else None)
        network = make_transformer(model)
        set_attention(network, attention)
        if compiled:
            compile_blocks(network, FLUX.blocks)
        policy = make_policy(model, network)
        arguments = inputs(model, policy)
        cost = transformer_cost(model, 1, gradient=False, gpu=GPU)

        @torch.no_grad()
        def step(policy: Any = policy, arguments: Any = arguments) -> Tensor:
            return policy.velocity(*arguments)

        rows.append(_timed(setting, f"rollout step, {name}", step, cost.forward_flops, cost.peak, predicted))
        del network, policy, step
        free()
    return rows


def vae(setting: Setting) -> list[Row]:
    """Measure the decoder and its gradient at several sizes: plain, in channels-last format, with recomputation."""
    rows = []
    ways = (("", {}), (", channels last", {"vae_channels_last": True}), (", recomputed", {"vae_checkpointing": True}))
    for px in (setting.px,) if setting.tiny else sorted({512, setting.px, 1024}):
        for way, changes in ways:
            sized = replace(setting, px=px)
            model = sized.model(**changes)
            policy = make_policy(model, None)
            tokens = torch.randn(1, *policy.token_shape, device=DEVICE, requires_grad=True)
            cost = decoder_cost(model, 1, (REWARD_SIZE,), gradient=True, gpu=GPU)

            def work(policy: Any = policy, tokens: Tensor = tokens) -> None:
                tokens.grad = None
                policy.decode(tokens).mean().backward()

            name = f"decode and gradient, {model.resolution} px{way}"
            flops = cost.forward_flops + cost.backward_flops
            rows.append(_timed(sized, name, work, flops, cost.peak, None if way else (0.06, 0.10)))
            del policy, work
            free()
    return rows


def grad(setting: Setting) -> list[Row]:
    """Measure a gradient pass with adapters in plain torch: recomputed, not recomputed, compiled."""
    ways = [("recomputed", True, False, (0.42, 0.42)), ("not recomputed", False, False, (0.29, 0.29))]
    compiled_way = ("not recomputed, compiled", False, True, (0.20, 0.20))
    rows = []
    for name, recompute, compiled, predicted in ways if setting.tiny else [*ways, compiled_way]:
        model = setting.model(lora=setting.lora(), gradient_checkpointing=recompute)
        network = make_transformer(model)
        if compiled:
            compile_blocks(network, FLUX.blocks)
        policy = make_policy(model, network)
        arguments = inputs(model, policy)

        def work(policy: Any = policy, network: nn.Module = network, arguments: Any = arguments) -> None:
            policy.velocity(*arguments).mean().backward()
            network.zero_grad(set_to_none=True)

        cost = transformer_cost(model, 1, gradient=True, gpu=GPU)
        flops = cost.forward_flops + cost.backward_flops
        rows.append(_timed(setting, f"gradient, plain torch, {name}", work, flops, cost.peak, predicted))
        del network, policy, work
        free()
    return rows


def zero3(setting: Setting) -> list[Row]:
    """Measure a gradient pass with adapters under the engine, for each stage of ZeRO that it offers."""
    rows = []
    # The FLOPs are counted first, because an engine replaces functions of torch.
    model = setting.model(lora=setting.lora(), gradient_checkpointing=True)
    cost = transformer_cost(model, 1, gradient=True, gpu=GPU)
    flops = cost.forward_flops + cost.backward_flops
    ensure_process_group()
    stages: tuple[Literal[3, 2, 1], ...] = (3, 2, 1)
    for stage in stages:
        training = TrainingConfig(batch_size=1, zero_stage=stage)
        engine = Engine(make_transformer(model), training, dtype_of(model))
        policy = make_policy(model, engine)
        arguments = inputs(model, policy)

        def one(policy: Any = policy, engine: Engine = engine, arguments: Any = arguments) -> None:
            engine.backward(policy.velocity(*arguments).mean())

        def two(policy: Any = policy, engine: Engine = engine, arguments: Any = arguments) -> None:
            engine.backward(policy.velocity(*arguments).mean() + policy.velocity(*arguments).mean())

        def stepped(engine: Engine = engine, one: Callable[[], None] = one) -> None:
            one()
            engine.step()

        @torch.no_grad()
        def rolled(policy: Any = policy, engine: Engine = engine, arguments: Any = arguments) -> None:
            with engine.gathered():
                policy.velocity(*arguments)

        predicted = (1.3, 2.5) if stage == 3 else (0.42, 0.6)
        rows.append(_timed(setting, f"gradient, ZeRO stage {stage}", one, flops, cost.peak, predicted))
        rows.append(_timed(setting, f"two losses in one backward, stage {stage}", two, 2 * flops, None, None))
        rows.append(_timed(setting, f"gradient and optimizer step, stage {stage}", stepped, flops, None, None))
        rows.append(_timed(setting, f"rollout step of gathered weights, stage {stage}", rolled, 0.0, None, None))
        del engine, policy, one, two, stepped, rolled
        free()
    return rows


def hps(setting: Setting) -> list[Row]:
    """Measure HPSv2.1's image tower and its gradient on two images: float32, TF32 and bfloat16 beside each other."""
    settings = TINY_CLIP if setting.tiny else dict(open_clip.get_model_config("ViT-H-14") or {})
    with torch.device("meta"):
        built = open_clip.CLIP(**settings)
    tower = random_weights(built.visual).eval().requires_grad_(False)
    rounded = copy.deepcopy(tower).bfloat16()
    images = torch.rand(2, 3, REWARD_SIZE, REWARD_SIZE, device=DEVICE)

    def gradient(dtype: str) -> Tensor:
        pixels = images.clone().requires_grad_()
        # As a reward model with `dtype: bfloat16`: weights in bfloat16, the unit feature in float32.
        features = rounded(pixels.bfloat16()) if dtype == "bfloat16" else tower(pixels)
        score = nn.functional.normalize(features.float(), dim=-1).sum()
        return torch.autograd.grad(score, pixels)[0].flatten()

    exact, rows = gradient("float32"), []
    predicted: dict[str, tuple[float, float] | None] = {
        "float32": (0.03, 0.03),
        "TF32": None,
        "bfloat16": (0.006, 0.006),
    }
    for dtype in ("float32", "bfloat16") if setting.tiny else predicted:
        torch.backends.cuda.matmul.allow_tf32 = dtype == "TF32"
        cosine = torch.cosine_similarity(gradient(dtype), exact, dim=0).item()
        work: Callable[[], object] = lambda dtype=dtype: gradient(dtype)  # noqa: E731
        rows.append(_timed(setting, f"image tower and gradient, 2 images, {dtype}", work, 0.0, None, predicted[dtype]))
        limit = None if setting.tiny else (0.999, None)
        rows.append(row(f"cosine of its gradient with float32, {dtype}", "", cosine, limit))
    return rows


def _timed(
    setting: Setting,
    name: str,
    work: Callable[[], object],
    flops: float,
    planned: int | None,
    predicted: tuple[float, float] | None,
) -> Row:
    known = at_720(setting, *predicted) if predicted else None
    return timed(name, work, flops=flops, planned=planned, predicted=known, rounds=setting.rounds)

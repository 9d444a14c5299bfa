"""What a trace counts, against arithmetic and against what torch's own allocator says of the same cost."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from srpo_ray.algorithms import Batch, build_algorithm
from srpo_ray.config import RunConfig, apply
from srpo_ray.config.model import LoraConfig, ModelConfig
from srpo_ray.flow import Draws
from srpo_ray.models.conditioning import Conditioning
from srpo_ray.models.trainable import load_tuned, make_policy
from srpo_ray.planning import cost as costs
from srpo_ray.planning.accounting import total
from srpo_ray.planning.cost import decoder_cost, extrapolate, peak_of_backward, transformer_cost
from srpo_ray.planning.schedule import schedule
from srpo_ray.planning.shapes import parameters
from srpo_ray.planning.trace import Cost, Meter, trace_forward, trace_gradient
from srpo_ray.planning.zero_shares import trained_elements
from srpo_ray.rewards.local import LocalRewards
from tests.helpers.training.faulty_rewards import Brightness


def test_bytes_are_counted_while_tensors_live_and_views_cost_nothing() -> None:
    module = nn.Linear(8, 8, device="meta")
    with Meter([module]) as meter:
        first = torch.empty(100, device="meta")
        view = first.view(10, 10)
        second = first + 1
        assert meter.bytes == 800
        del first
        assert meter.bytes == 800, "the view still holds it"
        del view
        assert meter.bytes == 400
        module.weight.t()
        assert meter.bytes == 400, "a parameter is no new memory"
        del second
    assert (meter.bytes, meter.peak) == (0, 800)


def test_linear_layer_costs_what_arithmetic_says() -> None:
    layer = nn.Linear(64, 32, bias=False, device="meta")
    rows = torch.empty(10, 64, device="meta", requires_grad=True)
    product = 2 * 10 * 64 * 32
    cost = trace_gradient(lambda: layer(rows), [layer], gpu=True)
    assert (cost.forward_flops, cost.backward_flops) == (product, 2 * product)
    layer.requires_grad_(False)
    frozen = trace_gradient(lambda: layer(rows), [layer], gpu=True)
    assert frozen.backward_flops == product
    # Its output alone: the input was there before.
    assert trace_forward(lambda: layer(rows), [layer], gpu=True) == Cost(0, 4 * 10 * 32, product, 0.0)


def test_attention_keeps_no_matrix_of_all_pairs() -> None:
    query = torch.empty(1, 2, 1000, 8, device="meta", requires_grad=True)
    cost = trace_gradient(lambda: functional.scaled_dot_product_attention(query, query, query), [], gpu=True)
    # Its output, and one number per row and head.
    assert cost.saved == 4 * (2 * 1000 * 8 + 2 * 1000)
    assert cost.forward_flops == 2 * 2 * 2 * 1000 * 1000 * 8


def test_depth_is_extrapolated_exactly() -> None:
    def trace(layers: dict[str, int]) -> Cost:
        first, second = layers["first"], layers["second"]
        saved = 7 + 3 * first + 5 * second
        return Cost(saved, saved + 11, 2.0 * first + second, 4.0 * first + 9 * second)

    layers = {"first": 19, "second": 38}
    assert extrapolate(trace, layers) == trace(layers)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layers", "traced"),
    [
        ({"first": 3}, [{"first": 3}]),
        ({"first": 4}, [{"first": 1}, {"first": 2}]),
        ({"first": 2, "second": 6}, [{"first": 2, "second": 6}]),
        ({"first": 2, "second": 7}, [{"first": 1, "second": 1}, {"first": 2, "second": 1}, {"first": 1, "second": 2}]),
    ],
)
def test_all_layers_are_traced_at_once_unless_an_extrapolation_needs_fewer(
    layers: dict[str, int], traced: list[dict[str, int]]
) -> None:
    found: list[Any] = []
    extrapolate(lambda each: found.append(each) or Cost(), layers)
    assert found == traced


def test_first_layers_with_a_second_attention_are_extrapolated_exactly() -> None:
    def trace(layers: dict[str, Any]) -> Cost:
        plain, second = layers["num_layers"] - 1, len(layers["dual_attention_layers"])
        saved = 7 + 3 * plain + 5 * second
        return Cost(saved, saved + 11, 2.0 * plain + second, 4.0 * plain + 9 * second)

    whole = {"num_layers": 24, "dual_attention_layers": range(13)}
    assert extrapolate(trace, {"num_layers": 24}, 13) == trace(whole)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "gradient", "transformer", "decoder"),
    [
        ({"attention": "cudnn", "compile": True, "vae_channels_last": True}, True, 0, 0),
        ({"vae_checkpointing": True}, True, 0, 1),
        ({"gradient_checkpointing": True}, True, 1, 0),
        ({"gradient_checkpointing": True, "vae_checkpointing": True}, False, 0, 0),
        ({"lora": LoraConfig(rank=1)}, False, 1, 0),
    ],
)
def test_change_is_traced_only_where_it_counts(
    changes: dict[str, object], gradient: bool, transformer: int, decoder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[object] = []

    def trace(*_: object, gpu: bool) -> Cost:
        traced.append(gpu)
        return Cost()

    for name in ("trace_gradient", "trace_forward"):
        monkeypatch.setattr(costs, name, trace)
    # A number of samples that no other test has: what is traced here is kept.
    for computed, count in ((transformer_cost, transformer), (partial(decoder_cost, sizes=(8,)), decoder)):
        computed(ModelConfig(dtype="bfloat16"), 977, gradient=gradient, gpu=True)
        traced.clear()
        computed(ModelConfig.model_validate({"dtype": "bfloat16", **changes}), 977, gradient=gradient, gpu=True)
        assert len(traced) == count


def allocator_peak(compute: Callable[[], object]) -> int:
    """Most bytes that torch's allocator held at a time while something ran, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        compute()
    profiler: Any = record.profiler
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def let_go(parameter: Tensor) -> None:
    parameter.grad = None


def measured_peak(config: RunConfig) -> int:
    """Peak of the gradient part of a real update on the CPU: both of SRPO's losses, decoder, reward and backward."""
    transformer = load_tuned(config, torch.float32, "cpu", None).train()
    if config.model.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    policy = make_policy(config, transformer, transformer.config, "cpu")
    algorithm = build_algorithm(config, policy, LocalRewards({"brightness": Brightness()}, {"brightness": 1.0}))
    size = config.training.batch_size
    features = Conditioning(torch.randn(size, config.model.max_sequence_length, 64), torch.randn(size, 64))
    batch = Batch(("a cat",) * size, features, Draws(config.seed, 0, tuple(range(size))))
    collected = algorithm.collect(batch)
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(let_go)

    def update() -> None:
        pending = list(algorithm.losses(batch, collected))
        torch.stack([loss().loss for loss in pending]).sum().backward()

    return allocator_peak(update)


def planned_peak(config: RunConfig) -> int:
    plan, model = schedule(config), config.model
    call = transformer_cost(model, plan.samples, gradient=True, gpu=False)
    decoder = decoder_cost(model, plan.samples, (Brightness.image_size,), gradient=True, gpu=False)
    trained = 4 * trained_elements(parameters(model))
    return total(peak_of_backward(call, decoder, losses=plan.in_flight, chained=plan.chained, gradients=trained))


@pytest.mark.parametrize(
    "changes",
    [
        {"model.resolution": 32, "training.batch_size": 8},
        {"model.resolution": 64, "training.batch_size": 4, "model.gradient_checkpointing": True},
        {"model.resolution": 128, "training.batch_size": 2},
        {"model.resolution": 64, "training.batch_size": 8, "model.lora.rank": 8},
        {"model.resolution": 128, "training.batch_size": 2, "model.gradient_checkpointing": True}
        | {"model.vae_checkpointing": True},
    ],
    ids=["32px", "64px checkpointed", "128px", "64px adapters", "128px all checkpointed"],
)
def test_planned_activations_are_within_15_percent_of_the_measured_peak(
    tiny_run: RunConfig, changes: dict[str, object]
) -> None:
    config = apply(tiny_run, changes)
    assert planned_peak(config) == pytest.approx(measured_peak(config), rel=0.15)

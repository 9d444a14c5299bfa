"""Workers that share the tokens of each image, in the plan and in the checks before a run."""

from pathlib import Path

import pytest

from srpo_ray.config import apply, load_run
from srpo_ray.launch.preflight import check_inputs
from srpo_ray.models.attention import _BACKENDS
from srpo_ray.planning.context import check_context_parallel, token_sizes
from srpo_ray.planning.hardware import Hardware
from srpo_ray.planning.plan import Plan, make_plan
from tests.conftest import ROOT, SMALL_WORLD
from tests.helpers.models.tiny_sd3 import save_tiny_sd3

FLUX = load_run(
    [ROOT / "configs/recipes/flux_lora_80gb.yaml", ROOT / "configs/recipes/rewards_own_node.yaml"],
    ["model.resolution=1024", "training.micro_batch_size=1", "training.num_workers=2", "training.batch_size=4"],
)
PAIR = apply(FLUX, {"training.context_parallel": 2, "training.batch_size": 2})
"""Two workers with two prompts of their own, and two that share two prompts: the same images per worker."""


def plan_of(config: object, **hardware: object) -> Plan:
    return make_plan(config, Hardware(gpu="H100", **hardware))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("workers", "changes", "message"),
    [
        (5, {}, r"24 attention heads .* got 5; choose one of 1, 2, 3, 4, 6, 8, 12, 24"),
        (8, {"model.resolution": 720}, r"2025 image tokens \(model.resolution=720\) .* to a multiple of 128"),
        (3, {"model.resolution": 768}, r"512 text tokens \(model.max_sequence_length=512\) .* to 510 or 513"),
    ],
)
def test_groups_that_do_not_divide_the_model_are_refused_with_a_cure(
    workers: int, changes: dict[str, object], message: str
) -> None:
    sizes = {"training.num_workers": workers, "training.context_parallel": workers, "training.batch_size": 4}
    config = apply(FLUX, {**sizes, **changes})
    with pytest.raises(ValueError, match=r"training.context_parallel: expected a divisor of the " + message):
        check_context_parallel(config)
    with pytest.raises(ValueError, match=message):
        plan_of(config)


def test_group_is_checked_before_a_run_starts() -> None:
    changes = ["training.num_workers=3", "training.context_parallel=3", "training.batch_size=3"]
    with pytest.raises(ValueError, match=r"4 attention heads of small_world, got 3; choose one of 1, 2, 4"):
        check_inputs(load_run([SMALL_WORLD], changes))


def test_text_tokens_of_sd3_are_those_of_clip_and_of_t5(tmp_path: Path) -> None:
    config = load_run([SMALL_WORLD], [f"model.path={save_tiny_sd3(tmp_path / 'sd3')}"])
    # The tokenizer of the tiny pipeline has 32 tokens, and 16 are those of T5.
    assert token_sizes(config.model) == (2, 16, 48)


def test_two_workers_halve_activations_and_arithmetic_of_the_transformer_and_not_those_of_the_decoder() -> None:
    alone, pair = plan_of(FLUX), plan_of(PAIR)

    def gradient(plan: Plan) -> dict[str, int]:
        (phase,) = [phase for phase in plan.gpus[0].phases if phase.name == "gradient"]
        return {part.name: part.bytes for part in phase.parts}

    name = "activations, transformer"
    assert gradient(pair)[name] == pytest.approx(gradient(alone)[name] / 2, rel=1e-6)
    name = "activations, VAE decoder"
    assert gradient(pair).get(name) == gradient(alone).get(name)
    work = [{part.name: part.flops for part in plan.work} for plan in (alone, pair)]
    assert work[1]["rollout"] == pytest.approx(work[0]["rollout"] / 2)
    assert work[1]["VAE decoder"] == work[0]["VAE decoder"]
    # Attention of 4608 tokens, recomputed in the backward pass of its exchange: 57 blocks of width 3072, two losses.
    again = 2 * 2 * 57 * 4 * 4608**2 * 3072
    assert work[1]["gradient steps"] == pytest.approx((work[0]["gradient steps"] + again) / 2)
    assert pair.replica_work.flops == pytest.approx(alone.replica_work.flops / 2)
    assert "2 workers share the tokens of each image" in pair.parallelism


def test_workers_exchange_four_tensors_per_attention_in_each_pass() -> None:
    plan = plan_of(PAIR, bandwidth_gbs=100.0)
    sent = {part.name: part.bytes for part in plan.traffic}
    # Of its half of 4608 tokens, a worker sends and receives a half, in bfloat16, in 57 blocks.
    once = 57 * 4 * 4608 / 2 * 3072 * 2 / 2
    assert sent["tokens exchanged among 2, rollouts"] == pytest.approx(2 * 25 * once)
    # Forward pass, recomputation and backward pass of two losses of two prompts.
    assert sent["tokens exchanged among 2, gradients"] == pytest.approx(2 * 2 * 3 * once)
    assert plan.wire_s == pytest.approx(sum(sent.values()) / 100e9)


def test_exchange_inside_nodes_is_not_counted_at_the_bandwidth_between_them() -> None:
    many = apply(PAIR, {"training.num_workers": 16, "training.batch_size": 16})
    inside, across = plan_of(many, gpus_per_node=8), plan_of(many, gpus_per_node=1)
    assert sum("exchanged" in part.name for part in inside.group_traffic) == 2
    assert not any("exchanged" in part.name for part in inside.traffic)
    assert sum("exchanged" in part.name for part in across.traffic) == 2
    assert not across.group_traffic


def test_every_attention_kernel_can_exchange_tokens() -> None:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    assert set(_BACKENDS.values()) <= _AttentionBackendRegistry._supports_context_parallel

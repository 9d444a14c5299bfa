"""Planned seconds: of the host as measured, of an update as estimated by hand, and of a whole run."""

from dataclasses import replace
from typing import Any

import pytest

from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.planning.advice import candidates
from srpo_ray.planning.hardware import GPUS, Hardware
from srpo_ray.planning.host import HOST_SPEED, forward_seconds, gradient_hooks, gradient_seconds, sampling_hooked
from srpo_ray.planning.model_flops import model_flops
from srpo_ray.planning.plan import Plan, make_plan
from srpo_ray.planning.report import duration
from srpo_ray.planning.workload import Work
from tests.conftest import ROOT

RECIPES = ROOT / "configs" / "recipes"


def recipe(name: str, *overrides: str) -> RunConfig:
    return load_run([RECIPES / f"{name}.yaml", RECIPES / "rewards_same_gpu.yaml"], overrides)


@pytest.mark.parametrize(
    ("name", "checkpointed", "in_flight", "low", "high"),
    [
        ("flux_lora_80gb", True, 1, 2.1, 2.3),
        ("flux_lora_80gb", True, 2, 5.6, 6.0),
        ("flux_full_8x80gb", True, 1, 1.5, 1.7),
        ("flux_full_8x80gb", True, 2, 3.1, 4.0),
    ],
)
def test_host_seconds_of_a_gradient_pass_are_those_measured(
    name: str, checkpointed: bool, in_flight: int, low: float, high: float
) -> None:
    """For both losses where two are in flight, on the measuring machine, for the 57 blocks of FLUX.1."""
    model = recipe(name, f"model.gradient_checkpointing={checkpointed}").model
    assert low <= in_flight * gradient_seconds(model, in_flight, "layers") / HOST_SPEED <= high


@pytest.mark.parametrize(("name", "measured"), [("flux_lora_80gb", 0.08), ("flux_full_8x80gb", 0.06)])
def test_host_seconds_of_a_call_without_hooks_are_those_measured(name: str, measured: float) -> None:
    model = recipe(name).model
    assert forward_seconds(model, hooked=False) / HOST_SPEED == pytest.approx(measured)
    assert forward_seconds(model, hooked=True) > forward_seconds(model, hooked=False)


def test_pass_without_recomputation_costs_the_host_less() -> None:
    model = recipe("flux_lora_80gb").model
    kept = model.model_copy(update={"gradient_checkpointing": False})
    # Two of three passes with hooks, so between a half and all of the seconds.
    assert 0.5 < gradient_seconds(kept, 1, "layers") / gradient_seconds(model, 1, "layers") < 1


def test_host_waits_for_the_hooks_that_the_run_has() -> None:
    adapters, full = recipe("flux_lora_80gb"), recipe("flux_full_8x80gb")
    blocks, adapters_3 = (
        apply(full, {"training.gather_blocks": True}),
        apply(adapters, {"training.zero_stage": 3, "training.gather_for_rollout": False}),
    )
    assert [gradient_hooks(each) for each in (adapters, full, blocks, adapters_3)] == [
        "none",
        "layers",
        "blocks",
        "layers",
    ]
    assert not sampling_hooked(apply(adapters, {"training.gather_for_rollout": False}))
    assert sampling_hooked(adapters_3)
    # Measured with recomputation and one loss in flight: 0.43 and 0.57 s at stages 2 and 1, 0.69 s with whole blocks.
    assert 0.43 <= gradient_seconds(adapters.model, 1, "none") / HOST_SPEED <= 0.57
    assert gradient_seconds(full.model, 1, "blocks") / HOST_SPEED == pytest.approx(0.69)


def test_slower_of_gpu_and_host_counts() -> None:
    assert Work("a", 100.0, host_s=2.0).seconds(100.0) == 2.0
    assert Work("a", 100.0, host_s=0.5).seconds(100.0) == 1.0


@pytest.mark.parametrize(
    ("name", "gpu", "overrides", "seconds"),
    [
        ("flux_lora_80gb", "H100", (), 67),
        ("flux_full_8x80gb", "H100", (), 16.5),
        ("flux_lora_48gb", "L40S", (), 80),
        ("flux_lora_80gb", "H100", ("training.zero_stage=3",), 67),
        ("flux_lora_48gb", "L40S", ("training.zero_stage=3",), 121),
        pytest.param(
            "flux_lora_80gb",
            "H100",
            (
                "training.zero_stage=3",
                "training.micro_batch_size=1",
                "training.losses_in_flight=2",
                "model.vae_checkpointing=false",
            ),
            118,
            marks=pytest.mark.long,
        ),
        pytest.param("flux_full_8x80gb", "H100", ("training.micro_batch_size=1",), 23, marks=pytest.mark.long),
    ],
)
def test_update_takes_the_seconds_that_were_estimated_by_hand(
    name: str, gpu: str, overrides: tuple[str, ...], seconds: float
) -> None:
    """Estimates from published speeds of FLUX.1-dev (0.125 s per rollout step at 720 px) and the measured host."""
    plan = make_plan(recipe(name, *overrides), Hardware(gpu=gpu))
    assert plan.update_s == pytest.approx(seconds, rel=0.12)


def test_assumed_speed_of_an_h100_is_the_published_one_of_flux_without_compilation() -> None:
    # 28 steps of 74.4 TFLOP, 1024 px, in 6.57 s.
    assert GPUS["H100"].tflops * GPUS["H100"].share == pytest.approx(28 * 74.4 / 6.57, rel=0.02)


def test_run_is_its_updates_its_evaluations_and_its_checkpoints(tiny_run: RunConfig) -> None:
    changes: dict[str, Any] = {"training.num_updates": 10, "training.checkpoint_interval": 4, "evaluation.interval": 5}
    plan = make_plan(apply(tiny_run, changes), Hardware(tflops=1, storage_gbs=2))
    # Base model, updates 5 and 10; updates 4, 8 and 10.
    assert (plan.updates, plan.evaluations, plan.checkpoints) == (10, 3, 3)
    assert plan.checkpoint_bytes == 3 * 4 * plan.trained
    assert plan.checkpoint_s == plan.checkpoint_bytes / 2e9
    assert plan.update_s == plan.compute_s
    assert plan.update_s
    assert plan.evaluation_s
    assert plan.run_s == pytest.approx(10 * plan.update_s + 3 * plan.evaluation_s + 3 * plan.checkpoint_s)


def test_evaluation_samples_the_images_of_its_prompts(tiny_run: RunConfig) -> None:
    def work(changes: dict[str, Any]) -> float:
        found = make_plan(apply(tiny_run, changes), Hardware()).evaluation
        assert found
        return found.flops

    assert work({"evaluation.num_prompts": 8}) == pytest.approx(2 * work({"evaluation.num_prompts": 4}))
    assert make_plan(apply(tiny_run, {"evaluation.num_prompts": None}), Hardware()).evaluation is None


def test_evaluations_and_tests_are_planned_at_their_own_sizes(tiny_run: RunConfig) -> None:
    test = {"prompts": "test.txt", "num_prompts": 4, "samples_per_prompt": 1}
    small, large = (apply(tiny_run, {"evaluation.test": test, "model.resolution": side}) for side in (64, [128, 96]))
    plans = [make_plan(config, Hardware()) for config in (small, large)]
    apart = {"evaluation.resolution": [128, 96], "evaluation.test.resolution": 64}
    found = make_plan(apply(small, apart), Hardware())
    assert found.evaluation == plans[1].evaluation != plans[0].evaluation
    assert found.test == plans[0].test != plans[1].test
    assert found.work == plans[0].work != plans[1].work
    phases = [{phase.name: phase for phase in plan.gpus[0].phases} for plan in (*plans, found)]
    assert phases[2]["evaluation"] == phases[1]["evaluation"] != phases[0]["evaluation"]
    assert phases[2]["rollout"] == phases[0]["rollout"]


def test_plan_of_several_sizes_has_the_memory_of_the_largest_and_the_mean_work(tiny_run: RunConfig) -> None:
    one = apply(tiny_run, {"training.micro_batch_size": 1, "evaluation.resolution": 64})
    sizes: tuple[Any, ...] = (64, [64, 128])
    small, large = (make_plan(apply(one, {"model.resolution": size}), Hardware()) for size in sizes)
    config = apply(one, {"model.resolution": None, "model.sizes": list(sizes)})
    plan = make_plan(config, Hardware())
    assert plan.gpus == large.gpus != small.gpus
    assert plan.evaluation == small.evaluation == large.evaluation
    for found, *each in zip(plan.work, small.work, large.work, strict=True):
        assert found.flops == pytest.approx(sum(work.flops for work in each) / 2)
    alone = [model_flops(apply(one, {"model.resolution": size})) for size in sizes]
    assert model_flops(config).forward == pytest.approx(sum(flops.forward for flops in alone) / 2)


def test_advice_for_large_evaluations_is_the_size_of_the_training() -> None:
    config = recipe("flux_lora_80gb", "model.resolution=[512, 768]", "evaluation.resolution=[1024, 1536]")
    found = {key: value for changes, _ in candidates(config) for key, value in changes.items()}
    assert found["evaluation.resolution"] is None
    assert found["model.resolution"] == (384, 576)
    own = [key for changes, _ in candidates(recipe("flux_lora_80gb")) for key in changes]
    assert "evaluation.resolution" not in own


def test_a_gpu_is_not_slower_than_its_host_on_the_cpu(tiny_run: RunConfig) -> None:
    plan: Plan = make_plan(tiny_run, Hardware(tflops=1))
    assert {work.host_s for work in plan.work} == {0.0}
    faster = replace(plan, hardware=Hardware(tflops=2))
    assert plan.update_s == pytest.approx(2 * (faster.update_s or 0))


@pytest.mark.parametrize(("seconds", "text"), [(42.04, "42.0 s"), (90, "1.5 min"), (5400, "1.5 h")])
def test_durations_are_written_in_the_unit_that_they_fill(seconds: float, text: str) -> None:
    assert duration(seconds) == text

"""Throughput of updates against figures computed by hand, and the FLOPs that it counts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from srpo_ray.config import apply, load_run
from srpo_ray.planning.cost import transformer_cost
from srpo_ray.planning.model_flops import ModelFlops, model_flops
from srpo_ray.training.throughput import Throughput
from tests.conftest import SMALL_WORLD, TINY

RECIPES = Path(SMALL_WORLD).parent / "recipes"
TINY_RUN = load_run([SMALL_WORLD], TINY)
FLOPS = ModelFlops(forward=2e12, forward_backward=7e12, decode=0.5e12)
UPDATE = {"cost/forward": 24.0, "cost/forward_backward": 4.0, "time/update": 5.0, "time/reward_wait": 0.5}


def throughput(*, workers: int = 2, distinct: float = 1.0, peak: float | None = None) -> Throughput:
    return Throughput(FLOPS, images=4, decoded=8, distinct=distinct, workers=workers, peak_tflops=peak)


def test_metrics_are_those_of_one_worker() -> None:
    # 24 x 2 + 4 x 7 + 8 x 0.5 = 80 TFLOP in 5 s on 2 workers.
    assert throughput().metrics(UPDATE) == pytest.approx(
        {"speed/tflops": 8.0, "speed/images_per_second": 0.4, "speed/reward_wait_share": 0.1}
    )


def test_images_per_gpu_second_count_the_gpus_of_both_sides() -> None:
    # 4 images in 5 s on 2 workers with a GPU each and 3 replicas with half a GPU each.
    used = replace(throughput(), worker_gpus=1.0, replica_gpus=0.5)
    found = used.metrics({**UPDATE, "pool/replicas": 3.0, "time/cpu": 1.0})
    assert found["speed/images_per_gpu_second"] == pytest.approx(4 / 5 / 3.5)
    assert "speed/images_per_cpu_second" not in found
    placed = apply(TINY_RUN, {"training.num_gpus": 1, "rewards.pool.num_gpus": 0.25})
    assert (Throughput.of(placed, 1).worker_gpus, Throughput.of(placed, 1).replica_gpus) == (1.0, 0.25)
    inside = apply(placed, {"rewards.in_process": True})
    assert Throughput.of(inside, 1).replica_gpus == 0.0


def test_images_per_cpu_second_divide_by_the_seconds_that_the_process_computed() -> None:
    found = throughput().metrics({**UPDATE, "time/cpu": 8.0})
    assert found["speed/images_per_cpu_second"] == pytest.approx(4 / 2 / 8.0)
    assert "speed/images_per_gpu_second" not in found


def test_utilization_is_reported_against_a_given_ceiling_only() -> None:
    assert "speed/mfu" not in throughput().metrics(UPDATE)
    assert throughput(peak=16.0).metrics(UPDATE)["speed/mfu"] == pytest.approx(0.5)


def test_repeated_micro_batches_add_no_flops() -> None:
    few = apply(TINY_RUN, {"training.batch_size": 4, "training.micro_batch_size": 1})
    alone, three = (Throughput.of(few, workers) for workers in (1, 3))
    # Three workers make two passes each: six for four micro-batches, and the costs count all six.
    assert (alone.distinct, three.distinct) == (1.0, pytest.approx(4 / 6))
    repeated = {**UPDATE, "cost/forward": 36.0, "cost/forward_backward": 6.0}
    assert three.metrics(repeated)["speed/tflops"] * 3 == pytest.approx(alone.metrics(UPDATE)["speed/tflops"])


def test_workers_that_share_images_repeat_none() -> None:
    pairs = apply(TINY_RUN, {"training.num_workers": 4, "training.context_parallel": 2})
    assert Throughput.of(pairs, 4).distinct == 1.0


@pytest.mark.parametrize(
    ("changes", "images", "decoded"),
    [
        ({}, 4, 8),
        ({"algorithm.renoisings": 3}, 4, 24),
        ({"algorithm.type": "direct_align"}, 4, 4),
        ({"algorithm.type": "dance_grpo", "algorithm.group_size": 3}, 12, 12),
    ],
)
def test_images_are_counted_once_and_decodings_for_each_loss(
    changes: dict[str, object], images: int, decoded: int
) -> None:
    found = Throughput.of(apply(TINY_RUN, {"training.batch_size": 4, **changes}), 1)
    assert (found.images, found.decoded) == (images, decoded)


def test_recomputation_adds_no_flops() -> None:
    saving = apply(TINY_RUN, {"model.gradient_checkpointing": True, "model.vae_checkpointing": True})
    assert model_flops(saving) == model_flops(TINY_RUN)
    executed = transformer_cost(saving.model, 1, gradient=True, gpu=False)
    assert executed.forward_flops + executed.backward_flops > model_flops(saving).forward_backward


@pytest.mark.parametrize("recipe", ["flux_lora_24gb", "z_image_lora_48gb", "sd35_medium_lora_48gb", "krea2_lora_80gb"])
def test_flops_of_a_call_are_those_of_a_forward_pass_without_gradient(recipe: str) -> None:
    config = load_run([str(RECIPES / f"{recipe}.yaml")])
    alone = transformer_cost(config.model, 1, gradient=False, gpu=True)
    assert model_flops(config).forward == alone.forward_flops > 0


def test_decoder_has_a_backward_pass_only_where_the_gradient_passes_through_it() -> None:
    scored = model_flops(apply(TINY_RUN, {"algorithm.type": "dance_grpo"})).decode
    differentiated = model_flops(TINY_RUN).decode
    # A convolution's gradient in its input costs as much as its forward pass; the frozen decoder has no other.
    assert differentiated == pytest.approx(2 * scored, rel=0.05)


def test_flops_of_an_image_are_counted_once_for_all_starts_of_a_run(tmp_path: Path) -> None:
    file = tmp_path / "model_flops.json"
    counted = Throughput.of(TINY_RUN, 1).flops
    assert Throughput.of(TINY_RUN, 1, file).flops == counted
    file.write_text(json.dumps({**json.loads(file.read_text()), "forward": 7.0}))
    assert Throughput.of(TINY_RUN, 1, file).flops == replace(counted, forward=7.0)

"""Choice of recomputation: both settings are planned, and the sentence says which of them fit."""

from dataclasses import replace

import pytest

from srpo_ray.config import apply, load_run
from srpo_ray.planning.hardware import GIB, Hardware
from srpo_ray.planning.plan import make_plan
from srpo_ray.planning.recomputation import Recomputation, compare_recomputation
from tests.conftest import SMALL_WORLD

KEY, MICRO = "model.gradient_checkpointing", "training.micro_batch_size"
ON = Recomputation(True, 40 * GIB, 61.0, (f"{KEY}=false",), 60 * GIB, 52.0, 80 * GIB)
OFF = Recomputation(False, 60 * GIB, 52.0, (f"{KEY}=true",), 40 * GIB, 61.0, 80 * GIB)
SLOWER, FASTER = "an update would take 61.00 s instead of 52.00 s", "an update would take 52.00 s instead of 61.00 s"


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        (ON, f"{KEY}=false fits too: peak 60.00 GiB of 80.00 GiB; {FASTER}"),
        (replace(ON, limit=50 * GIB), f"{KEY}=true is needed: without it 60.00 GiB of 50.00 GiB; {FASTER}"),
        (replace(ON, limit=None, update_s=None), f"{KEY}=false: peak 60.00 GiB instead of 40.00 GiB"),
        (replace(ON, changes=()), f"{KEY}=true stays on: the config needs it"),
        (OFF, f"{KEY} is off and not needed: with it 40.00 GiB instead of 60.00 GiB; {SLOWER}"),
        (replace(OFF, limit=50 * GIB), f"{KEY}=true makes it fit: peak 40.00 GiB of 50.00 GiB; {SLOWER}"),
        (replace(OFF, limit=30 * GIB), f"{KEY}=true is not enough: peak 40.00 GiB of 30.00 GiB; {SLOWER}"),
    ],
)
def test_sentence_says_which_setting_fits_and_what_it_costs(choice: Recomputation, sentence: str) -> None:
    assert str(choice) == sentence


# A large batch, so that the activations are most of the memory.
LARGE = ["training.num_gpus=1", f"{KEY}=true", "training.batch_size=512"]


def test_other_setting_has_the_peak_and_the_seconds_of_its_own_plan() -> None:
    on = load_run([SMALL_WORLD], LARGE)
    off = apply(on, {KEY: False})
    plans = [make_plan(each, Hardware(memory_gib=80, tflops=1)) for each in (on, off)]
    assert plans[0].peak < plans[1].peak
    for config, plan, other in ((on, *plans), (off, *plans[::-1])):
        choice = compare_recomputation(config, plan)
        assert choice is not None
        assert choice.on is config.model.gradient_checkpointing
        assert (choice.peak, choice.other_peak) == (plan.peak, other.peak)
        assert (choice.update_s, choice.other_update_s) == (plan.update_s, other.update_s)
    # The GPU computes a forward pass of every block a second time.
    assert (plans[0].compute_s or 0.0) > (plans[1].compute_s or 0.0)


def test_smaller_micro_batches_are_taken_if_recomputation_is_needed_for_the_larger_ones() -> None:
    on = load_run([SMALL_WORLD], LARGE)
    sizes = (512, 256, 128)
    peaks = {size: make_plan(apply(on, {KEY: False, MICRO: size}), Hardware(tflops=1)).peak for size in sizes}
    assert peaks[512] > peaks[256] > peaks[128]
    # Room for 128 prompts and not for 256. The speed is so low that the host is never waited for.
    hardware = Hardware(memory_gib=(peaks[128] + peaks[256]) / 2 / GIB, tflops=0.01)
    choice = compare_recomputation(on, make_plan(on, hardware))
    assert choice is not None
    assert choice.changes == (f"{KEY}=false", f"{MICRO}=128")
    assert choice.other_peak == peaks[128]
    assert (choice.other_update_s or 0.0) < (choice.update_s or 0.0)


def test_run_on_a_cpu_has_no_choice_and_one_that_gathers_blocks_keeps_recomputation() -> None:
    config = load_run([SMALL_WORLD])
    assert compare_recomputation(config, make_plan(config, Hardware())) is None
    blocks = ["training.gather_blocks=true", f"{KEY}=true", "training.losses_in_flight=1", "training.num_gpus=1"]
    config = load_run([SMALL_WORLD], blocks)
    choice = compare_recomputation(config, make_plan(config, Hardware()))
    assert choice is not None
    assert not choice.changes

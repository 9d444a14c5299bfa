"""Plans of whole runs: recipes that fit, runs that do not, and advice that does what it says."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from srpo_ray.cli import main
from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.errors import OutOfMemoryRunError
from srpo_ray.models.sizes import check_sizes
from srpo_ray.planning.accounting import Memory, Part, Phase
from srpo_ray.planning.advice import advise, candidates
from srpo_ray.planning.hardware import GIB, GPUS, Hardware
from srpo_ray.planning.plan import Plan, make_plan
from srpo_ray.planning.shapes import part_config
from srpo_ray.planning.workload import worker_traffic
from srpo_ray.training import loop
from srpo_ray.training.worker import train_worker
from srpo_ray.training.worker_arguments import WorkerArguments
from tests.conftest import ROOT, SMALL_WORLD

RECIPES = ROOT / "configs" / "recipes"
BASES = sorted(path for path in RECIPES.glob("*.yaml") if not path.stem.startswith("rewards_"))
PLACES = sorted(RECIPES.glob("rewards_*.yaml"))
SMALLEST = {"24gb": "RTX4090", "48gb": "L40S", "80gb": "A100-80GB", "32gpu": "A100-80GB"}
"""The GPU with the least memory that the end of a recipe's name can mean."""


def plan_of(*layers: Path, gpu: str, overrides: tuple[str, ...] = ()) -> Plan:
    return make_plan(load_run(layers, overrides), Hardware(gpu=gpu))


@pytest.mark.parametrize("place", PLACES, ids=lambda path: path.stem)
@pytest.mark.parametrize("base", BASES, ids=lambda path: path.stem)
def test_every_recipe_fits_the_gpu_of_its_name(base: Path, place: Path) -> None:
    gpu = next(gpu for end, gpu in SMALLEST.items() if base.stem.endswith(end))
    rewards_gpu = plan_of(base, place, gpu="L40S").gpus[1:]
    plan = plan_of(base, place, gpu=gpu)
    peak = plan.gpus[0].peak
    assert peak <= GPUS[gpu].memory_gib * GIB, f"{peak / GIB:.1f} GiB of {GPUS[gpu].memory_gib} GiB"
    assert not plan.notes
    # A reward node of cluster.yaml has an L40S, whatever the trainers have.
    assert len(rewards_gpu) == ("own_node" in place.stem)
    assert all(memory.peak <= GPUS["L40S"].memory_gib * GIB for memory in rewards_gpu)


@pytest.mark.parametrize("base", [base for base in BASES if "full" in base.stem], ids=lambda path: path.stem)
def test_recipe_of_all_weights_writes_its_143_gb_once(base: Path) -> None:
    training = load_run([base]).training
    assert training.checkpoint_interval == training.num_updates
    assert training.checkpoints_kept == 1


def test_there_are_recipes_and_both_places_for_their_rewards() -> None:
    assert {path.stem for path in BASES} == {
        "flux_lora_80gb",
        "flux_lora_48gb",
        "flux_pairs_lora_48gb",
        "flux_lora_24gb",
        "flux_lora_8x80gb",
        "flux_full_8x80gb",
        "flux_full_32gpu",
        "sd35_medium_lora_48gb",
        "flux2_klein_lora_24gb",
        "flux2_dev_lora_80gb",
        "z_image_lora_48gb",
        "qwen_image_lora_80gb",
        "krea2_lora_80gb",
        "qwen_image21_lora_48gb",
    }
    assert len(PLACES) == 2


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("flux_full_8x80gb", ("training.num_workers=1",)),
        ("flux_full_8x80gb", ("training.losses_in_flight=2", "model.resolution=1024", "training.micro_batch_size=4")),
        ("flux_lora_80gb", ("model.gradient_checkpointing=false", "training.micro_batch_size=4")),
        ("flux_lora_80gb", ("evaluation.batch_size=64", "model.resolution=1024")),
    ],
)
def test_what_is_too_large_does_not_fit(recipe: str, overrides: tuple[str, ...]) -> None:
    config = load_run([RECIPES / f"{recipe}.yaml", RECIPES / "rewards_own_node.yaml"], overrides)
    plan = make_plan(config, Hardware(gpu="A100-80GB"))
    assert plan.fits is False


def test_advice_given_to_the_command_line_has_the_peak_that_it_promises() -> None:
    layers = [RECIPES / "flux_full_8x80gb.yaml", RECIPES / "rewards_same_gpu.yaml"]
    change = ("model.gradient_checkpointing=false", "training.losses_in_flight=2")
    config = load_run(layers, change)
    hardware = Hardware(gpu="A100-80GB")
    plan = make_plan(config, hardware)
    advice = advise(config, plan)
    savings = [entry.saving for entry in advice]
    assert savings == sorted(savings, reverse=True)
    assert all(entry.peak + entry.saving == plan.peak for entry in advice)
    assert {"model.gradient_checkpointing=true", "training.losses_in_flight=1"} <= {
        override for entry in advice for override in entry.overrides
    }
    for entry in advice[:3]:
        assert make_plan(load_run(layers, [*change, *entry.overrides]), hardware).peak == entry.peak


@pytest.mark.parametrize("path", ["Qwen/Qwen-Image-2.1", "Qwen/Qwen-Image", "black-forest-labs/FLUX.1-dev"])
def test_smaller_images_that_are_advised_have_sizes_that_the_model_draws(path: str, tiny_run: RunConfig) -> None:
    # Three quarters are 408 and 792, which are no multiples of 16.
    for resolution in (544, 1056, [544, 1056]):
        config = apply(tiny_run, {"model.path": path, "model.resolution": resolution})
        (changes,) = [each for each, _ in candidates(config) if "model.resolution" in each]
        smaller = apply(config, changes).model.size
        check_sizes(path, {"model.resolution": smaller}, partial(part_config, path))
        assert all(0.7 * side < small < 0.76 * side for side, small in zip(config.model.size, smaller, strict=True))


def test_more_workers_are_advised_with_what_they_need() -> None:
    config = load_run([RECIPES / "flux_full_8x80gb.yaml", RECIPES / "rewards_same_gpu.yaml"])
    (changes,) = [each for each, _ in candidates(config) if "training.num_workers" in each]
    # Sixteen workers have two prompts each, and a replica beside each of them.
    assert changes == {
        "training.num_workers": 16,
        "training.micro_batch_size": 2,
        "rewards.pool.num_replicas": 16,
    }
    assert apply(config, changes).training.pass_size == 2


def test_whole_gathered_weights_are_in_the_rollout_of_a_sharded_run() -> None:
    layers = (RECIPES / "flux_full_8x80gb.yaml", RECIPES / "rewards_own_node.yaml")
    shown = {phase.name: phase for phase in plan_of(*layers, gpu="H100").gpus[0].phases}
    gathered = {part.name: part.bytes for part in shown["rollout"].parts}["whole weights, gathered"]
    assert gathered == pytest.approx(23.8e9, rel=0.01)
    spared = plan_of(*layers, gpu="H100", overrides=("training.gather_for_rollout=false",)).gpus[0]
    (rollout,) = [phase for phase in spared.phases if phase.name == "rollout"]
    assert rollout.parts[0].bytes < 2.2e9


def test_exact_bytes_of_full_fine_tuning_are_sixteen_per_parameter_beside_the_weights() -> None:
    plan = plan_of(RECIPES / "flux_full_8x80gb.yaml", RECIPES / "rewards_own_node.yaml", gpu="H100")
    held = {part.name: part.bytes for part in plan.gpus[0].always}
    share = plan.parameters / 8
    for name, size in {
        "transformer weights": 2,
        "master weights, float32": 4,
        "Adam moments, float32": 8,
        "summed gradients, float32": 4,
    }.items():
        # Each of 1160 tensors may be filled up by less than 8 elements.
        assert 0 <= held[name] - size * share <= size * 1160


def test_adapters_of_eight_workers_keep_the_base_whole_and_send_only_adapters() -> None:
    layers = (RECIPES / "flux_lora_80gb.yaml", RECIPES / "rewards_own_node.yaml")
    eight = (
        "training.num_workers=8",
        "training.batch_size=16",
        "training.micro_batch_size=1",
        "training.losses_in_flight=2",
    )
    whole, sharded = (
        plan_of(*layers, gpu="H100", overrides=(*eight, *more)) for more in ((), ("training.zero_stage=3",))
    )
    assert whole.parallelism.startswith("ZeRO stage 2: the trained adapters are small")
    assert sharded.parallelism == "ZeRO stage 3: set by training.zero_stage"
    held, cut = ({part.name: part.bytes for part in plan.gpus[0].always} for plan in (whole, sharded))
    frozen = 2 * (whole.parameters - whole.trained)
    assert held["transformer weights"] == pytest.approx(frozen + 2 * whole.trained, abs=100)
    assert cut["transformer weights"] == pytest.approx(held["transformer weights"] / 8, rel=1e-3)
    assert held["Adam moments, float32"] == pytest.approx(whole.trained, abs=100)
    sent = {part.name: part.bytes for part in whole.traffic}
    once = 7 / 8 * 2 * whole.trained
    assert sent["updated weights"] == pytest.approx(once, rel=1e-6)
    # Two micro-batches, each with one backward pass over both losses; a sum that all receive is sent twice.
    assert sent["gradients averaged"] == pytest.approx(2 * 2 * once, rel=1e-6)
    assert not any("gathered" in name for name in sent)


def test_offload_moves_the_optimizer_to_the_host() -> None:
    layers = (RECIPES / "flux_full_8x80gb.yaml", RECIPES / "rewards_own_node.yaml")
    kept, moved = (
        plan_of(*layers, gpu="H100", overrides=(f"training.offload={where}",)) for where in ("null", "optimizer")
    )
    host = [{part.name: part.bytes for part in plan.host.always} for plan in (kept, moved)]
    # Master weights, two moments, the optimizer's gradients, and those that wait for it, of 4 bytes each.
    assert host[1]["offloaded from the GPUs"] - host[0].get("offloaded from the GPUs", 0) == pytest.approx(
        20 * kept.parameters, rel=1e-3
    )
    assert kept.peak - moved.peak > 20e9


@pytest.mark.parametrize(
    ("offload", "moved"),
    [
        ("optimizer", {"the EMA of the weights": 4}),
        ("weights", {"the EMA of the weights": 4, "weights of evaluation.contrast_with": 2}),
    ],
)
def test_offload_keeps_copies_of_weights_beside_their_originals(offload: str, moved: dict[str, int]) -> None:
    layers = (RECIPES / "flux_full_8x80gb.yaml", RECIPES / "rewards_own_node.yaml")

    def parts(*overrides: str) -> tuple[dict[str, int], int]:
        plan = plan_of(*layers, gpu="H100", overrides=overrides)
        host = {part.name: part.bytes for part in plan.host.always}
        return {part.name: part.bytes for part in plan.gpus[0].always}, host.get("offloaded from the GPUs", 0)

    copies = ("training.ema={decay: 0.99}", "evaluation.contrast_with=other", "evaluation.rl_guidance=2.0")
    on_gpu, _ = parts(*copies)
    left, with_copies = parts(f"training.offload={offload}", *copies)
    _, without = parts(f"training.offload={offload}", "training.ema=null")
    assert moved.keys() <= on_gpu.keys()
    assert not moved.keys() & left.keys()
    assert ("weights of evaluation.contrast_with" in left) == (offload == "optimizer")
    assert with_copies - without == 8 * sum(on_gpu[name] for name in moved)
    elements = plan_of(*layers, gpu="H100", overrides=()).parameters / 8
    assert {name: on_gpu[name] / elements for name in moved} == pytest.approx(moved, rel=1e-3)


def test_peak_is_the_fullest_phase_and_what_is_outside() -> None:
    phases = (Phase("a", (Part("x", 5),)), Phase("b", (Part("y", 3), Part("z", 4))))
    memory = Memory("gpu", (Part("weights", 10),), phases, (Part("context", 1),))
    assert (memory.fullest.name, memory.allocated, memory.peak) == ("b", 17, 18)


def test_weights_are_gathered_for_rollouts_in_updates_that_sample_alone() -> None:
    def sent(changes: dict[str, object]) -> int | None:
        parts = worker_traffic(apply(config, changes))
        return {part.name: part.bytes for part in parts}.get("weights gathered for rollouts")

    config = load_run([RECIPES / "flux_full_32gpu.yaml", RECIPES / "rewards_own_node.yaml"])
    once = sent({})
    assert once
    assert sent({"rollout.reuse": 4}) == pytest.approx(once / 4, abs=1)
    assert sent({"rollout.source": "base_model"}) is None


@pytest.mark.parametrize(
    ("path", "for_each_sample", "for_guidance"), [("Qwen/Qwen-Image", 1, 1), ("Qwen/Qwen-Image-2.1", 4, 2)]
)
def test_weights_are_gathered_for_every_sample_and_for_guidance_where_texts_differ_in_length(
    path: str, for_each_sample: int, for_guidance: int
) -> None:
    halves = ("training.num_workers=2", "training.zero_stage=3", "training.gather_for_rollout=false")
    layers = [RECIPES / "qwen_image_lora_80gb.yaml", RECIPES / "rewards_own_node.yaml"]
    config = load_run(layers, [f"model.path={path}", "training.micro_batch_size=4", *halves])
    single = {"training.micro_batch_size": 1}
    plain = {"rollout.guidance_scale": 1.0, "algorithm.guidance_scale": 1.0}
    fours, ones, unguided = (
        {part.name: part.bytes for part in worker_traffic(apply(config, changes))} for changes in ({}, single, plain)
    )
    for name in ("weights gathered for rollouts", "weights gathered for gradients"):
        assert ones[name] * for_each_sample == pytest.approx(4 * fours[name])
        assert unguided[name] * for_guidance == pytest.approx(fours[name])


def test_reused_rollouts_are_held_all_the_time(tiny_run: RunConfig) -> None:
    config = {"training.num_workers": 2, "training.batch_size": 8, "rollout.reuse": 4}
    plan = make_plan(apply(tiny_run, config), Hardware())
    held = {part.name: part.bytes for part in plan.gpus[0].always}
    # Four images of 64 x 64 pixels: 4 x 4 tokens of 2 x 2 latents with 4 channels each, or 16 as in FLUX.
    assert held["rollouts that are reused"] in (4 * 16 * 16 * 4, 4 * 16 * 64 * 4)
    assert "rollout, mean over 4 updates" in {work.name for work in plan.work}


def test_group_that_is_sampled_in_parts_takes_the_memory_of_a_part_and_the_work_of_the_group(
    tiny_run: RunConfig,
) -> None:
    def planned(**algorithm: int) -> tuple[int, int, float]:
        online = {"type": "preference", "source": "online", **algorithm}
        config = apply(tiny_run, {"algorithm": online, "training.micro_batch_size": 1})
        plan = make_plan(config, Hardware())
        (rollout,) = [phase for phase in plan.gpus[0].phases if phase.name == "rollout"]
        parts = {part.name: part.bytes for part in rollout.parts}
        work = {work.name: work.flops for work in plan.work}
        return parts["activations"], parts["latents for the losses"], work["rollout"]

    activations, kept, work = planned(group_size=4, images_per_pass=2)
    whole, pair = planned(group_size=4), planned(group_size=2)
    assert activations == pair[0] < whole[0]
    assert kept == whole[1] > pair[1]
    assert work == pytest.approx(whole[2], rel=1e-9)


def test_parts_of_a_group_are_advised_where_they_are_allowed(tiny_run: RunConfig) -> None:
    def advised(**algorithm: int) -> list[object]:
        online = {"type": "preference", "source": "online", "group_size": 4, **algorithm}
        found = [each for each, _ in candidates(apply(tiny_run, {"algorithm": online}))]
        return [each["algorithm.images_per_pass"] for each in found if "algorithm.images_per_pass" in each]

    assert (advised(), advised(images_per_pass=2), advised(images_per_pass=1)) == ([1], [1], [])


def test_base_model_is_counted_before_the_first_update_and_not_in_it(tiny_run: RunConfig) -> None:
    config = apply(tiny_run, {"training.num_workers": 2, "rollout.source": "base_model"})
    plan, own = make_plan(config, Hardware()), make_plan(tiny_run, Hardware())
    phases = {phase.name for phase in plan.gpus[0].phases}
    assert "sampling of the base model" in phases
    assert "sampling of the base model" not in {phase.name for phase in own.gpus[0].phases}
    assert plan.notes[0].startswith("images of the base model: at most 16, of 4 transformer calls each")
    assert not own.notes


def test_time_is_work_over_speed_and_grows_with_traffic() -> None:
    layers = [RECIPES / "flux_full_32gpu.yaml", RECIPES / "rewards_own_node.yaml"]
    config = load_run(layers, ["training.shard_group_size=null"])
    plan = make_plan(config, Hardware(gpu="H20", tflops=100, bandwidth_gbs=50))
    flops = {work.name: work.flops for work in plan.work}
    assert flops["rollout"] == pytest.approx(932e12, rel=0.02)
    assert flops["gradient steps"] == pytest.approx(2 * 4 * 37.3e12, rel=0.05)
    assert plan.compute_s == pytest.approx(sum(flops.values()) / 100e12)
    sent = {part.name: part.bytes for part in plan.traffic}
    once = 31 / 32 * 2 * plan.parameters
    assert sent["weights gathered for rollouts"] == pytest.approx(once, rel=1e-2)
    assert sent["weights gathered for gradients"] == pytest.approx(4 * once, rel=1e-2)
    assert sent["gradients averaged"] == pytest.approx(2 * once, rel=1e-2)
    assert plan.wire_s == pytest.approx(sum(sent.values()) / 50e9)
    halves = apply(config, {"training.micro_batch_size": 1, "training.batch_size": 2 * config.training.batch_size})
    twice = {part.name: part.bytes for part in worker_traffic(halves)}
    assert twice["weights gathered for rollouts"] == sent["weights gathered for rollouts"]
    assert twice["weights gathered for gradients"] == 2 * sent["weights gathered for gradients"]
    pixels = {part.name: part.bytes for part in plan.reward_traffic}["pixels to the rewards"]
    assert pixels == 2 * 3 * 224 * 224 * 4


def test_groups_of_workers_gather_for_gradients_from_a_copy_of_their_own() -> None:
    layers = (RECIPES / "flux_full_32gpu.yaml", RECIPES / "rewards_own_node.yaml")
    alone, grouped = (plan_of(*layers, gpu="H100", overrides=(f"training.shard_group_size={n}",)) for n in ("null", 8))
    weights = 2 * grouped.parameters
    held = {part.name: part.bytes for part in grouped.gpus[0].always}
    assert held["weights, sharded again in a group"] == pytest.approx(weights / 8, rel=1e-4)
    # Four calls gather seven eighths of the weights in the group. One gather for the rollout comes from all.
    assert [part.bytes for part in grouped.group_traffic] == [pytest.approx(4 * 7 / 8 * weights, rel=1e-2)]
    between = [{part.name: part.bytes for part in plan.traffic} for plan in (alone, grouped)]
    assert between[0].keys() - between[1].keys() == {"weights gathered for gradients"}
    assert between[0]["weights gathered for rollouts"] == between[1]["weights gathered for rollouts"]


def test_command_says_that_a_run_fits_and_writes_every_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", str(SMALL_WORLD), "training.num_gpus=0.5", "--gpu-memory", "8", "--tflops", "1"]
    assert main([*words, "--json", str(tmp_path / "plan.json")]) == 0
    printed = capsys.readouterr().out
    assert "fits: " in printed
    assert "Adam moments" in printed
    figures = json.loads((tmp_path / "plan.json").read_text())
    assert figures["fits"] is True
    assert "model.gradient_checkpointing is off and not needed: with it" in printed
    assert figures["recomputation"]["changes"] == ["model.gradient_checkpointing=true"]
    assert figures["peak"] == max(memory["peak"] for memory in figures["gpus"])
    assert figures["compute_s"] == pytest.approx(sum(work["flops"] for work in figures["work"]) / 1e12)


def test_command_fails_where_the_run_does_not_fit_and_says_what_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(SMALL_WORLD), "training.num_gpus=0.5", "--gpu-memory", "0.2"]) == 1
    printed = capsys.readouterr().out
    assert "does not fit: " in printed
    assert "model.dtype=bfloat16" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "H1000"], "--gpu: expected one of A100-40GB"),
        (["--gpu-memory", "-1"], "--gpu-memory: expected a number above 0, got -1; give what the machine has"),
        (["--bandwidth", "nan"], "--bandwidth: expected a number above 0, got nan"),
        (["--storage", "inf"], "--storage: expected a number above 0, got inf"),
        (["--gpus-per-node", "0"], "--gpus-per-node: expected a number above 0, got 0"),
        (["model.path=/nowhere/at/all"], "expected a folder or hub id with transformer/config.json"),
    ],
)
def test_what_cannot_be_planned_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(SMALL_WORLD), *words]) == 2
    assert message in capsys.readouterr().err


def test_full_memory_ends_a_worker_with_the_plan_and_its_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nProcess 1 has ...")

    monkeypatch.setattr(loop, "run_loop", full)
    config = load_run([SMALL_WORLD], ["training.num_gpus=1"])
    arguments = WorkerArguments(config, str(tmp_path), None, "", "")
    with pytest.raises(OutOfMemoryRunError) as caught:
        train_worker({"arguments": arguments})
    message = str(caught.value)
    assert "Tried to allocate 2.00 GiB." in message
    assert "Process 1" not in message
    assert "Adam moments" in message
    assert "model.dtype=bfloat16" in message


def test_reward_whose_size_is_not_known_is_named_and_not_counted() -> None:
    models = "evaluation.held_out=[{name: liked, type: image_reward}]"
    plan = make_plan(load_run([SMALL_WORLD], [models]), Hardware(gpu="H100"))
    assert plan.notes == ("reward liked: its size is not known, so it is not counted",)


def test_rewards_in_process_are_on_the_gpu_of_the_trainer_without_a_second_context() -> None:
    layers = (RECIPES / "flux_lora_48gb.yaml", RECIPES / "rewards_same_gpu.yaml")
    beside, within = (
        plan_of(*layers, gpu="L40S", overrides=(f"rewards.in_process={choice}",)) for choice in ("false", "true")
    )
    # Each process has a context of 0.6 GiB.
    assert beside.peak - within.peak == pytest.approx(0.6 * GIB, abs=1e6)
    assert len(within.gpus) == 1
    on_cpu = plan_of(*layers, gpu="L40S", overrides=("rewards.in_process=true", "training.num_gpus=0"))
    assert "reward models on the CPU" in {part.name for part in on_cpu.host.always}
    assert "reward models on the CPU" not in {part.name for part in within.host.always}


def test_range_of_replicas_is_planned_with_its_most_and_the_plan_says_so() -> None:
    fixed, ranged = "rewards.pool.num_replicas=4", "rewards.pool.num_replicas={min: 1, max: 4}"
    one, four, range_of_four = (
        make_plan(load_run([SMALL_WORLD], overrides), Hardware(gpu="H100")) for overrides in ([], [fixed], [ranged])
    )
    assert range_of_four.host == four.host
    assert range_of_four.host.peak > one.host.peak
    assert range_of_four.notes == ("rewards.pool.num_replicas is 1 to 4; the plan is for 4",)
    assert not four.notes


def test_replica_with_one_model_is_planned_as_the_largest() -> None:
    layers = (RECIPES / "flux_lora_80gb.yaml", RECIPES / "rewards_own_node.yaml")
    weights = [
        [part.name for part in plan.gpus[1].always if part.name.endswith("weights")]
        for plan in (
            plan_of(*layers, gpu="A100-80GB", overrides=(f"rewards.pool.one_model_each={split}",))
            for split in ("false", "true")
        )
    ]
    assert weights == [["hps_v21, weights", "pickscore, weights"], ["hps_v21, weights"]]

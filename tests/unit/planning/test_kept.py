"""Planned memory of what an update keeps between its rollouts and its losses, beside estimates by hand."""

import pytest

from srpo_ray.config import RunConfig, apply
from srpo_ray.planning.devices import trainer_memory
from srpo_ray.planning.kept import call_text, joined_parts, kept_parts, waiting_pixels

FLUX = {"model.path": "black-forest-labs/FLUX.1-dev", "model.dtype": "bfloat16", "model.max_sequence_length": 512}
GROUP = {"algorithm.type": "dance_grpo", "algorithm.group_size": 24, "rollout.num_steps": 25}
TOKENS, TEXT = 64 * 64 * 64 * 4, (512 * 4096 + 768) * 2
"""Bytes of the float32 latents of a FLUX image of 1024 px, and of its text features in bfloat16."""


def parts(config: RunConfig) -> dict[str, int]:
    return {part.name: part.bytes for part in kept_parts(config)}


def test_group_keeps_a_state_for_each_sampler_step(tiny_run: RunConfig) -> None:
    config = apply(tiny_run, FLUX | GROUP | {"model.resolution": 1024, "training.batch_size": 2})
    # 24 of the 25 steps are random, so there are 25 states before and after them.
    assert parts(config) == {
        "latents for the losses": 2 * 24 * 25 * TOKENS,
        "text features": 2 * 24 * TEXT,
    }


def test_few_random_steps_keep_few_states_and_shared_ones_count_once(tiny_run: RunConfig) -> None:
    window = {"type": "window", "size": 3, "steps": [0, 5]}
    branch = {"type": "branch", "at": [1, 3]}
    base = {"algorithm.type": "policy_gradient", "algorithm.group_size": 8, "rollout.num_steps": 10}
    one = parts(apply(tiny_run, base | {"algorithm.plan": window, "algorithm.noise": "per_image"}))
    shared, branched = (parts(apply(tiny_run, base | {"algorithm.plan": plan})) for plan in (window, branch))
    ratio = {"window": 4, "shared": 3 + 1 / 8, "branched": 2 * (1 + 1 / 8)}
    latents = [found["latents for the losses"] for found in (one, shared, branched)]
    assert [each / latents[0] for each in latents] == pytest.approx([each / 4 for each in ratio.values()])


def test_worker_keeps_most_where_there_are_fewest_workers(tiny_run: RunConfig) -> None:
    slots = {"training.resources": {"trainer_slot": 1}, "rewards.pool.resources": {"reward_slot": 1}}
    alone, four, range_of = (
        parts(apply(tiny_run, {"training.batch_size": 8, "training.num_workers": workers} | slots))
        for workers in (1, 4, {"min": 2, "max": 4})
    )
    assert {name: 4 * size for name, size in four.items()} == alone
    assert {name: 2 * size for name, size in range_of.items()} == alone


def test_kept_tensors_are_in_all_phases_of_an_update_but_not_in_an_evaluation(tiny_run: RunConfig) -> None:
    config = apply(tiny_run, {"algorithm.type": "awm", "rollout.num_steps": 6})
    kept = {part.name for part in kept_parts(config)}
    phases = {phase.name: {part.name for part in phase.parts} for phase in trainer_memory(config, (32,)).phases}
    assert all(kept <= phases[name] for name in ("rollout", "gradient", "optimizer"))
    assert not kept & phases["evaluation"]


def test_larger_rollouts_copy_their_inputs_and_scored_images_keep_their_pixels(tiny_run: RunConfig) -> None:
    base = apply(tiny_run, {"algorithm.type": "raft", "algorithm.group_size": 3, "training.micro_batch_size": 1})
    base = apply(base, {"rollout.num_steps": 6})
    larger = apply(base, {"rollout.batch_size": 6})
    assert joined_parts(base) == ()
    # A pass has one prompt, whose features its images share. A rollout of several prompts copies them for each image.
    assert sum(part.bytes for part in joined_parts(larger)) == 3 * parts(base)["text features"]
    assert call_text(base).bytes == 3 * parts(base)["text features"] / 4
    assert call_text(tiny_run).bytes == 0
    assert waiting_pixels(base, (32, 16)).bytes == 4 * 3 * (32 * 32 + 16 * 16) * 3 * 4
    # A loss that decodes an image gets its score at once.
    assert waiting_pixels(tiny_run, (32,)).bytes == 0

"""Recorded calls of whole updates."""

from pathlib import Path

from benchmarks.methods import PRESETS, measure
from srpo_ray.config import load_run
from srpo_ray.rewards.local import LocalRewards
from tests.conftest import TINY
from tests.helpers.training.ranks import run_ranks

METHODS = ("srpo", "flow_grpo_fast")


def measured(folder: str) -> dict[str, dict[str, float]]:
    found, rewards = {}, None
    for method in METHODS:
        steps = ["rollout.num_steps=6"] if method == "flow_grpo_fast" else []
        overrides = [*TINY, *steps, f"run_root={folder}", "training.batch_size=2"]
        config = load_run([str(path) for path in PRESETS[method]], overrides)
        rewards = rewards or LocalRewards.load(config.rewards.models)
        found[method] = measure(method, config, rewards, Path(folder) / method, 1).to_json()
    return found


def test_every_call_of_an_update_is_measured_in_plain_torch(tmp_path: Path) -> None:
    found = run_ranks(measured, 1, tmp_path, str(tmp_path))
    srpo, grpo = (found[method] for method in METHODS)
    # Two images of four steps, and two branches.
    assert (srpo["images"], srpo["forward"], srpo["forward_backward"]) == (2, 8, 4)
    assert (grpo["images"], grpo["forward_backward"]) == (16, 3 * 16)
    # `measure` raises if the recorded calls have other numbers of images than the update has counted.
    for each in (srpo, grpo):
        assert min(each[part] for part in ("transformer_s", "decoder_s", "rewards_s", "optimizer_s")) > 0

"""Planned bytes of what an update keeps for its losses, and those of the tensors that the trainer holds."""

from pathlib import Path

import pytest

from srpo_ray.config import RunConfig, load_run
from srpo_ray.planning.kept import kept_parts
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.setup import build_trainer
from tests.conftest import ROOT, SMALL_WORLD, TINY
from tests.helpers.training.algorithm_checks import storages
from tests.helpers.training.ranks import run_ranks

METHODS = {
    "srpo": [],
    "leap_align": [],
    "dance_grpo": ["algorithm.group_size=4", "training.micro_batch_size=1"],
    "branch_grpo": ["rollout.num_steps=8", "algorithm.images_per_pass=4"],
    "flow_dppo": ["algorithm.optimizer_steps=1", "rollout.batch_size=32"],
    "spo": ["algorithm.plan.at=[1, 2]", "training.micro_batch_size=1"],
    "crd": ["algorithm.group_size=3"],
    "image_refl": ["training.micro_batch_size=2"],
}
"""Preset -> overrides."""


def config_of(method: str, run_root: str) -> RunConfig:
    layer = ROOT / "configs" / "algorithms" / f"{method}.yaml"
    files = [SMALL_WORLD, *([layer] if layer.exists() else [])]
    return load_run(files, [*TINY, f"run_root={run_root}", *METHODS[method]])


def held(run_root: str) -> dict[str, dict[str, int]]:
    """Bytes that each method holds between the rollouts and the losses of its first update, by their kind."""
    found, rewards = {}, None
    for method in METHODS:
        config = config_of(method, run_root)
        rewards = rewards or LocalRewards.load(config.rewards.models)
        trainer = build_trainer(config, RunFolder(Path(run_root) / method), rewards, "cpu", None)
        rounds = trainer.collect(0)
        shape = trainer.policy.token_shape
        batches = [batch for batch, _, _ in rounds]
        collected = storages([value for _, _, value in rounds])
        given = storages([batch.images for batch in batches])
        latents = {address: size for address, (each, size) in collected.items() if each[-2:] == shape}
        text = storages([batch.conditioning for batch in batches])
        found[method] = {
            "latents for the losses": sum(size for address, size in latents.items() if address not in given),
            "given images": sum(size for _, size in given.values()),
            "text features": sum(size for _, size in text.values()),
            "other": sum(size for address, (_, size) in collected.items() if address not in latents),
        }
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    folder = tmp_path_factory.mktemp("runs")
    return run_ranks(held, 1, folder, str(folder))


@pytest.mark.parametrize("method", METHODS)
def test_plan_counts_the_tensors_that_an_update_keeps(
    method: str, measured: dict[str, dict[str, int]], tmp_path: Path
) -> None:
    planned = {part.name: part.bytes for part in kept_parts(config_of(method, str(tmp_path)))}
    found = {name: size for name, size in measured[method].items() if size and name != "other"}
    assert planned == found
    # Rewards, advantages and log-densities are not planned.
    assert measured[method]["other"] < 0.05 * sum(found.values())

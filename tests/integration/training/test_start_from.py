"""Runs that continue from the checkpoint of another run: `start_from`."""

from pathlib import Path
from typing import Any

import torch

from srpo_ray.config import RunConfig, apply
from srpo_ray.launch.fit_here import fit_here
from srpo_ray.launch.preflight import open_run_folder
from srpo_ray.runs.checkpoint import read_checkpoint
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.runs.storage import Storage
from tests.helpers.training.ranks import run_ranks

SETTINGS = {
    "rewards.in_process": True,
    "model.lora.rank": 4,
    "training.ema.decay": 0.9,
    "training.checkpoint_interval": 9,
    "training.optimizer.lr": 1e-3,
    "evaluation.test": {"prompts": "small_world:test", "num_prompts": 2, "samples_per_prompt": 1},
}
CHEAP = {"evaluation.num_prompts": 2, "model.resolution": 32, "training.optimizer.lr": 1e-4}
PROMPTS = "a red circle on a gray background\na blue square on a black background\n"


class Rows:
    """Process that receives rows."""

    def __init__(self) -> None:
        self.updates: list[int] = []

    def report(self, row: dict[str, Any]) -> None:
        self.updates.append(row["update"])

    def leaving_nodes(self) -> frozenset[str]:
        return frozenset()


def train(config: RunConfig, name: str, updates: int, **changes: Any) -> dict[str, Any]:
    """Train a run; its tensors after the last update, its rows without times, and the updates that it reported."""
    config = apply(config, {**SETTINGS, "name": name, "training.num_updates": updates, **changes})
    folder, host = open_run_folder(config, Path(config.run_root) / name), Rows()
    fit_here(config, folder, None, host, name=name, commit=None)
    found = read_checkpoint(Storage(folder.checkpoints), updates)
    parts = {"weights": found.weights, "optimizer": found.optimizer, "ema": found.ema}
    tensors = {f"{kind}/{key}": value for kind, part in parts.items() for key, value in part.items()}
    return {"tensors": tensors, "rows": rows(folder), "reported": host.updates}


def rows(folder: RunFolder) -> dict[str, list[dict[str, Any]]]:
    files = {"updates": folder.updates, "evaluations": folder.evaluations, "test": folder.test_scores}
    other = ("time/", "memory/", "speed/")
    return {
        name: [{key: row[key] for key in row if not key.startswith(other)} for row in read_rows(path)]
        for name, path in files.items()
    }


def train_all(config: RunConfig) -> dict[str, Any]:
    whole = train(config, "whole", 4)
    train(config, "half", 2)
    source = str(Path(config.run_root) / "half")
    continued = train(config, "continued", 4, start_from=source)
    # The true content of images is measured at the small world's own resolution alone.
    prompts = Path(config.run_root) / "prompts.txt"
    prompts.write_text(PROMPTS)
    other = {**CHEAP, "evaluation.prompts": str(prompts), "evaluation.test.prompts": str(prompts)}
    cheap = train(config, "cheap", 3, start_from=source, **other)
    base = train(config, "base", 1, **other)
    return {"whole": whole, "continued": continued, "cheap": cheap, "base": base}


def test_run_continues_from_another_as_one_that_was_never_interrupted(tiny_run: RunConfig, tmp_path: Path) -> None:
    found = run_ranks(train_all, 1, tmp_path, tiny_run)
    whole, continued, cheap, base = (found[name] for name in ("whole", "continued", "cheap", "base"))
    assert {name.partition("/")[0] for name in whole["tensors"]} == {"weights", "optimizer", "ema"}
    assert whole["tensors"].keys() == continued["tensors"].keys()
    assert all(torch.equal(continued["tensors"][name], value) for name, value in whole["tensors"].items())
    assert continued["rows"] == whole["rows"]
    assert continued["reported"] == whole["reported"] == [0, 2, 4]

    # Evaluated otherwise: the base model is evaluated again, though the weights are those of another run.
    assert [row["update"] for row in cheap["rows"]["updates"]] == [1, 2, 3]
    assert cheap["rows"]["updates"][:2] == whole["rows"]["updates"][:2]
    evaluations = cheap["rows"]["evaluations"]
    assert [row["update"] for row in evaluations] == cheap["reported"] == [0, 3]
    assert evaluations[0] == base["rows"]["evaluations"][0] != whole["rows"]["evaluations"][0]
    assert [row["update"] for row in cheap["rows"]["test"]] == [0, 3]
    assert cheap["rows"]["test"][0] == base["rows"]["test"][0]

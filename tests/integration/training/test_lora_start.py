"""Runs that start from the adapters of an earlier run: `model.lora.start_from`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from srpo_ray.config import RunConfig, apply
from srpo_ray.inference.evaluate import evaluate_run
from srpo_ray.inference.export import COMFYUI_LORA, DIFFUSERS_LORA, export_run
from srpo_ray.inference.job import SamplingOptions, open_run
from srpo_ray.launch.fit_here import fit_here
from srpo_ray.launch.preflight import check_inputs, open_run_folder
from srpo_ray.runs.checkpoint_files import checkpoint_name
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.runs.storage import Storage
from srpo_ray.runs.trained_weights import read_trained_weights
from tests.helpers.training.ranks import run_ranks

SETTINGS = {
    "rewards.in_process": True,
    "model.lora": {"rank": 4, "alpha": 6},
    "training.optimizer.lr": 1e-2,
    "training.num_updates": 2,
    "training.ema.decay": 0.5,
    "algorithm.anchor.reference": 0.001,
    "evaluation.test": {"prompts": "small_world:test", "num_prompts": 2, "samples_per_prompt": 1},
}


class Rows:
    def report(self, row: dict[str, Any]) -> None: ...

    def leaving_nodes(self) -> frozenset[str]:
        return frozenset()


class StopsInThird(Rows):
    """Ctrl-C in the evaluation after the third update, after the checkpoint of the second."""

    def report(self, row: dict[str, Any]) -> None:
        if row.get("update") == 3:
            raise KeyboardInterrupt


def train(config: RunConfig, name: str, **changes: Any) -> RunFolder:
    return train_for(Rows(), config, name, changes)


def train_for(host: Rows, config: RunConfig, name: str, changes: dict[str, Any]) -> RunFolder:
    config = apply(config, {**SETTINGS, "name": name, **changes})
    check_inputs(config)
    folder = open_run_folder(config, Path(config.run_root) / name)
    fit_here(config, folder, None, host, name=name, commit=None)
    return folder


def scores(folder: RunFolder, update: int, *, test: bool = False) -> dict[str, list[float]]:
    rows = read_rows(folder.test_scores if test else folder.scores)
    return next(row["scores"] for row in rows if row["update"] == update)


def train_all(config: RunConfig) -> dict[str, Any]:
    first = train(config, "first")
    export = first.path / "export"
    export_run(first.path, export)
    starts = {
        "export": (str(export), "continue", {}),
        "comfyui": (str(export / COMFYUI_LORA), "continue", {"alpha": 3}),
        "checkpoint": (f"{first.checkpoints}/{checkpoint_name(2)}", "continue", {}),
        "merge": (str(export / DIFFUSERS_LORA), "merge", {"rank": 2, "alpha": 2}),
    }
    found: dict[str, Any] = {"first": {"tests": [scores(first, update, test=True) for update in (0, 2)]}}
    found["first"]["evaluations"] = [scores(first, update) for update in (0, 2)]
    for name, (start, mode, changes) in starts.items():
        lora = {"rank": 4, "alpha": 6, "start_from": start, "start_mode": mode, **changes}
        folder = train(config, name, **{"model.lora": lora})
        found[name] = {
            "evaluations": [scores(folder, update) for update in (0, 2)],
            "tests": [scores(folder, update, test=True) for update in (0, 2)],
            "anchors": [row["anchor/reference"] for row in read_rows(folder.updates)],
        }
    return found


def train_and_interrupt(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Mode -> weights after four updates from an export, without a stop and with one."""
    first = train(config, "first")
    export_run(first.path, first.path / "export")
    found: dict[str, dict[str, Any]] = {}
    for mode in ("continue", "merge"):
        lora = {"rank": 4, "alpha": 6, "start_from": str(first.path / "export"), "start_mode": mode}
        changes = {"model.lora": lora, "training.num_updates": 4, "training.checkpoint_interval": 2}
        changes |= {"evaluation.interval": 1}
        calm = train(config, f"calm_{mode}", **changes)
        with pytest.raises(KeyboardInterrupt):
            train_for(StopsInThird(), config, f"stopped_{mode}", changes)
        stopped = train(config, f"stopped_{mode}", **changes)
        starts = [row["update"] for row in read_rows(stopped.events) if row["event"] == "started"]
        weights = [read_trained_weights(Storage(folder.checkpoints), 4) for folder in (calm, stopped)]
        found[mode] = {"starts": starts, "equal": [torch.equal(weights[0][key], weights[1][key]) for key in weights[0]]}
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("starts")


def close(found: dict[str, list[float]], expected: dict[str, list[float]], rel: float) -> bool:
    assert found.keys() == expected.keys()
    return all(values == pytest.approx(expected[name], rel=rel, abs=rel) for name, values in found.items())


def test_run_from_an_earlier_runs_adapters_begins_with_its_last_evaluation(tiny_run: RunConfig, tmp_path: Path) -> None:
    found = run_ranks(train_all, 1, tmp_path, tiny_run)
    first = found["first"]
    assert not close(first["evaluations"][0], first["evaluations"][1], 1e-2)
    for kind in ("evaluations", "tests"):
        # The same weights to the bit.
        for name in ("export", "checkpoint"):
            assert found[name][kind][0] == first[kind][1], name
        # Another scale or another sum: the same up to rounding.
        for name in ("comfyui", "merge"):
            assert close(found[name][kind][0], first[kind][1], 1e-4), name
    for name in ("export", "comfyui", "checkpoint"):
        # The reference is the model without adapters.
        assert found[name]["anchors"][0] > 1e-4
    assert found["merge"]["anchors"][0] == 0
    assert found["merge"]["anchors"][1] > 0

    _compare_by_command(Path(tiny_run.run_root), found)


@pytest.mark.long
def test_interrupted_run_from_a_lora_resumes_to_the_weights_of_one_that_never_stopped(
    tiny_run: RunConfig, tmp_path: Path
) -> None:
    for found in run_ranks(train_and_interrupt, 1, tmp_path, tiny_run).values():
        assert found["starts"] == [0, 2]
        assert len(found["equal"]) > 10
        assert all(found["equal"])


def _compare_by_command(root: Path, found: dict[str, Any]) -> None:
    """The base model of `srpo-ray evaluate`: without adapters, or with the merged ones."""
    expected = {"export": found["first"]["evaluations"][0], "merge": found["first"]["evaluations"][1]}
    for name, base in expected.items():
        report, _ = evaluate_run(open_run(root / name), root / name / "evaluation", options=SamplingOptions())
        assert report
        rows = [row for row in _rows(root / name / "evaluation") if row["model"] == "base"]
        metric = next(key for key in base if key.startswith("evaluator/"))
        assert [row[metric] for row in sorted(rows, key=lambda row: row["prompt"])] == pytest.approx(
            base[metric], rel=1e-3
        )
    export_run(root / "merge", root / "merge" / "export")
    ranks = {
        value.shape[0] for key, value in load_file(root / "merge/export" / DIFFUSERS_LORA).items() if "lora_A" in key
    }
    assert ranks == {6}
    assert "merged the LoRA `pytorch_lora_weights.safetensors`" in (root / "merge/export/README.md").read_text()


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(folder.rglob("*.jsonl")) for row in read_rows(file)]

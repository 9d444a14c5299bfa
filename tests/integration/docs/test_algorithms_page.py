"""The worked example of docs/algorithms.md: its code, as it is printed, is registered, planned and trained."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import create_model

from srpo_ray.config import RunConfig, load_run, yaml_text
from srpo_ray.planning.schedule import schedule
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.runs.folder import RunFolder
from srpo_ray.training.setup import build_trainer
from tests.conftest import ROOT, SMALL_WORLD, TINY
from tests.helpers.training.algorithm_checks import count, first_update, plain_update
from tests.helpers.training.ranks import joined, run_ranks
from tests.helpers.training.tiny_flux import relative_error

REGISTRY = "srpo_ray/config/algorithms/registry.py"


def code_blocks() -> dict[str, str]:
    """File -> code that the page prints for it."""
    page = (ROOT / "docs" / "algorithms.md").read_text()
    return dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", page, re.DOTALL))


def registry_with(block: str) -> str:
    """The registry with the page's lines in the place of its own."""
    source = (ROOT / REGISTRY).read_text()
    (present,) = re.findall(r"^_Configs = .*$", source, re.MULTILINE)
    (union,) = re.findall(r"^_Configs = .*$", block, re.MULTILINE)
    assert union.rpartition(" | ")[0] == present, "the page's line is not the registry's with one class more"
    return source.replace(present, block)


def import_as(path: str, source: str, folder: Path) -> ModuleType:
    """Import source as the module that a file of the package would be."""
    name = path.removesuffix(".py").replace("/", ".")
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def config_of_the_page(folder: Path, overrides: list[str]) -> RunConfig:
    """The small world's run with the page's algorithm, whose modules are imported as if they were installed."""
    blocks, registry = code_blocks(), sys.modules["srpo_ray.config.algorithms.registry"]
    (settings,) = (text for path, text in blocks.items() if path.endswith(".yaml"))
    try:
        for path in sorted(blocks, key=lambda path: "config" not in path):
            if path.endswith(".py") and path != REGISTRY:
                import_as(path, blocks[path], folder)
        section: Any = import_as(REGISTRY, registry_with(blocks[REGISTRY]), folder)
    finally:
        sys.modules["srpo_ray.config.algorithms.registry"] = registry
    extended = create_model("Extended", __base__=RunConfig, algorithm=(section.AlgorithmConfig, section.DEFAULT))
    values = load_run([SMALL_WORLD], [*TINY, f"run_root={folder}", *overrides]).model_dump()
    for name, changed in yaml_text.load(settings).items():
        values[name] = {**(values[name] if name != "algorithm" else {}), **changed}
    return extended.model_validate(values)


def train(folder: str) -> dict[str, Any]:
    """The first update, for its gradients, and a second one."""
    config = config_of_the_page(Path(folder), ["training.micro_batch_size=2"])
    rewards = LocalRewards.load(config.rewards.models)
    trainer = build_trainer(config, RunFolder(Path(folder) / "run"), rewards, "cpu", None)
    before = joined(trainer.engine.weights())
    expected, _ = plain_update(trainer)
    error = relative_error(first_update(trainer), expected)
    metrics = trainer.update(1)
    after = joined(trainer.engine.weights())
    moved = max((after[name] - before[name]).abs().max().item() for name in before)
    return {"error": error, "metrics": metrics, "moved": moved}


@pytest.fixture
def clean_modules() -> Any:
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        if name.startswith("srpo_ray."):
            del sys.modules[name]


@pytest.mark.usefixtures("clean_modules")
def test_example_of_the_page_is_registered_and_calls_the_model_as_planned(tmp_path: Path) -> None:
    config = config_of_the_page(tmp_path, ["training.batch_size=2"])
    assert config.algorithm.type == "best_of_n"
    assert config.rollout.guidance_scale == 3.5
    plan, found = schedule(config), count(config, 0)
    assert (found.forward, found.losses, found.chained) == (plan.forward, plan.gradients, plan.mean_chained)
    assert found.samples == found.rolled_out == plan.samples == 8
    assert found.kept == plan.kept


def test_example_of_the_page_trains_with_the_gradients_of_plain_torch(tmp_path: Path) -> None:
    found = run_ranks(train, 1, tmp_path, str(tmp_path))
    assert found["error"] < 2e-5
    assert found["moved"] > 0
    assert all(torch.isfinite(torch.tensor(value)) for value in found["metrics"].values())
    # At the first update the policy is the reference; after it, it is not.
    assert found["metrics"]["loss/drift"] > 0

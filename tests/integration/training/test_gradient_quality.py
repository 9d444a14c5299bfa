"""The study of gradient quality: gradients against plain torch and difference quotients, and its files."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from srpo_ray.config import load_run
from tests.conftest import ROOT, SMALL_WORLD
from tests.helpers.training.algorithm_checks import plain_update

PROMPTS = ("a red circle on a gray background", "a blue square on a green background")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, ModuleType]:
    """Modules of the study, with a single small method in place of all."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    names = ("gradient_methods", "gradient_updates", "gradient_measure", "gradient_table", "gradient_quality")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    loaded = {name: importlib.import_module(name) for name in names}
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    small = ("rollout.num_steps=2", "training.batch_size=2", f"data.prompts={tmp_path / 'prompts.txt'}")
    methods = loaded["gradient_methods"]
    method = methods.Method("reward gradient", "draft", (*small, "algorithm.num_steps=2", "algorithm.renoisings=0"))
    for name in list(methods.METHODS):
        monkeypatch.delitem(methods.METHODS, name)
    monkeypatch.setitem(methods.METHODS, "whole trajectory", method)
    return loaded


def test_an_update_has_the_gradient_of_plain_torch_and_the_planned_calls(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    updates = modules["gradient_updates"]
    changes = ["rollout.num_steps=3", "training.batch_size=2", "training.micro_batch_size=1", "seed=5"]
    groups = ["algorithm.group_size=2", "algorithm.points=2", f"data.prompts={tmp_path / 'prompts.txt'}"]
    files = [SMALL_WORLD, ROOT / "configs" / "algorithms" / "awm.yaml"]
    config = load_run(files, [*changes, *groups, f"run_root={tmp_path}"])
    updates.encode_texts(config)
    source = updates.Updates(config, updates.World.load(config))
    found, cost = source.gradient(5, 0)
    gradients, _ = plain_update(source.trainer)
    expected = torch.cat([each.flatten() for each in gradients.values()])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())
    # 4 images of 3 steps, and 2 points each under the old weights, and with gradient, which counts three times.
    assert cost == 4 * (3 + 2 + 2 * 3)
    other, _ = source.gradient(6, 0)
    assert not torch.allclose(other, found, rtol=0.1)


def test_an_update_on_pairs_has_the_gradient_of_plain_torch_and_the_planned_calls(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    updates = modules["gradient_updates"]
    changes = ["training.batch_size=2", "data.pairs=small_world:pairs?count=4", "seed=5"]
    config = load_run(
        [SMALL_WORLD, ROOT / "configs" / "algorithms" / "diffusion_dpo.yaml"], [*changes, f"run_root={tmp_path}"]
    )
    updates.encode_texts(config)
    source = updates.Updates(config, updates.World.load(config))
    found, cost = source.gradient(5, 0)
    gradients, _ = plain_update(source.trainer)
    expected = torch.cat([each.flatten() for each in gradients.values()])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())
    # 2 pairs: 4 images under the reference weights, and with gradient.
    assert cost == 4 * (1 + 3)


def test_the_study_measures_each_part_once_and_the_reference_is_the_slope_of_the_reward(
    modules: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure, quality = modules["gradient_measure"], modules["gradient_quality"]
    options = measure.Options(prompts=2, references=3, blocks=3, evaluations=1, least=1, most=1, root=str(tmp_path))
    quality.measure(options, ["whole trajectory"], workers=1)
    check = json.loads(options.check_file("plain").read_text())
    assert check["difference"] == pytest.approx(check["slope"], rel=0.05, abs=1e-3)
    found: dict[str, Any] = measure.finished(options, "whole trajectory")
    # With one update per block, the squared norms are those of the block means.
    assert [row[index] for index, row in enumerate(found["own"])] == pytest.approx(found["squares"], rel=1e-5)
    assert (found["images"], found["updates"], found["cost"]) == (2, 3, 2 * 2 * 3)
    quality.report(options, ["whole trajectory"])
    table = capsys.readouterr().out.splitlines()
    assert table[-1].startswith("| whole trajectory | 2 | 12 | 3 |")
    # A finished study measures nothing; other options measure the method again.
    quality.measure(options, ["whole trajectory"], workers=1)
    assert capsys.readouterr().out == ""
    other = measure.Options(prompts=2, references=3, blocks=2, evaluations=1, least=1, most=1, root=str(tmp_path))
    assert measure.finished(other, "whole trajectory") is None

"""Verification levels of the recipes."""

import re

import pytest

from srpo_ray.cli import main
from srpo_ray.planning.verification import LEVELS, RECIPES, verification
from tests.conftest import ROOT, SMALL_WORLD

FILES = sorted((ROOT / "configs" / "recipes").glob("*"))


def test_every_file_of_the_recipes_has_a_level() -> None:
    assert {file.stem for file in FILES} == set(RECIPES)
    assert set(RECIPES.values()) <= set(LEVELS)


def test_documentation_states_the_level_of_every_recipe() -> None:
    page = (ROOT / "docs" / "plan.md").read_text()
    stated = dict(re.findall(r"^\| `configs/recipes/(\w+)\.yaml` \|.*\| ([^|]+) \|$", page, re.MULTILINE))
    assert stated == RECIPES


def test_other_files_have_no_level() -> None:
    assert verification([SMALL_WORLD, *FILES[:1]]) == (f"{FILES[0].stem}: {RECIPES[FILES[0].stem]}",)


def test_plan_prints_the_levels_of_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    layer = str(ROOT / "configs" / "recipes" / "rewards_own_node.yaml")
    assert main(["plan", str(SMALL_WORLD), layer, "training.num_gpus=0"]) == 0
    assert f"verified: rewards_own_node: {RECIPES['rewards_own_node']}" in capsys.readouterr().out

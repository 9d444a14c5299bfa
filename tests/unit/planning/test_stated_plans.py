"""Peak memory that the documentation states: that of a plan of the same recipe, as `srpo-ray plan` prints it."""

import re

import pytest

from srpo_ray.config import load_run
from srpo_ray.planning.hardware import GIB, GPUS, Hardware
from srpo_ray.planning.plan import make_plan
from tests.conftest import ROOT

RECIPES = ROOT / "configs" / "recipes"
PLACES = ("rewards_own_node", "rewards_same_gpu")
CARDS = {"24 GB": "RTX4090", "48 GB": "L40S", "80 GB": "A100-80GB"}
FAMILY_PAGE = (ROOT / "docs" / "model_families.md").read_text(encoding="utf-8")
PLAN_PAGE = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")


def family_rows() -> list[tuple[str, str, tuple[str, ...], list[str]]]:
    """Recipe, GPU, overrides and the two stated peaks."""
    pattern = r"^\| [\w. -]+ \| (\d\d GB) \| `(\w+)` \| (.*?) ?\| (.+?) \| (.+?) \|$"
    lines = re.findall(pattern, FAMILY_PAGE, re.MULTILINE)
    return [(recipe, CARDS[gpu], tuple(re.findall(r"`(.+?)`", given)), peaks) for gpu, recipe, given, *peaks in lines]


def plan_rows() -> list[tuple[str, str, tuple[str, ...], list[str]]]:
    table = PLAN_PAGE.partition("Planned peak memory per trainer GPU")[2].partition("\n\n`")[0]
    lines = re.findall(r"^\| `(\w+)`, ([\w-]+)(?:, [\d.]+ GiB)? \| (.+?) \| (.+?) \|$", table, re.MULTILINE)
    return [(recipe, gpu, (), peaks) for recipe, gpu, *peaks in lines]


ROWS = {" ".join((recipe, gpu, *given)): (recipe, gpu, given, peaks) for recipe, gpu, given, peaks in family_rows()}
FROM_PLAN = {f"{recipe} {gpu}": peaks for recipe, gpu, _, peaks in plan_rows()}


def test_tables_are_read_whole() -> None:
    assert len(ROWS) == len(family_rows()) == 23
    assert len(FROM_PLAN) == 14


def test_each_family_has_a_row_for_each_card_or_none_that_fits() -> None:
    found = re.findall(r"^\| ([\w. -]+) \| (\d\d GB) \| `", FAMILY_PAGE, re.MULTILINE)
    families = dict.fromkeys(family for family, _ in found)
    assert len(families) == 8
    missing = {(family, gpu) for family in families for gpu in CARDS} - set(found)
    # What does not fit 48 GB is not planned for 24 GB.
    assert missing == {("FLUX.2 dev", "24 GB")}


def assert_peaks_are_stated(recipe: str, gpu: str, overrides: tuple[str, ...], peaks: list[str]) -> None:
    for place, stated in zip(PLACES, peaks, strict=True):
        layers = [RECIPES / f"{recipe}.yaml", RECIPES / f"{place}.yaml"]
        peak = make_plan(load_run(layers, overrides), Hardware(gpu=gpu)).gpus[0].peak / GIB
        assert (stated == "-") == (peak > GPUS[gpu].memory_gib), f"{place}: stated {stated}, planned {peak:.2f} GiB"
        if stated != "-":
            # Stated to one decimal, and some peaks are in the middle of two.
            assert float(stated.removesuffix(" GiB")) == pytest.approx(peak, abs=0.06), place


@pytest.mark.parametrize(
    "row",
    # A row with overrides needs traces of its own, which take up to half a minute.
    [pytest.param(name, marks=pytest.mark.long if given else ()) for name, (_, _, given, _) in ROWS.items()],
)
def test_peaks_of_the_families_are_those_of_the_plan(row: str) -> None:
    assert_peaks_are_stated(*ROWS[row])


@pytest.mark.parametrize("row", FROM_PLAN)
def test_peaks_of_the_recipes_are_those_of_the_plan(row: str) -> None:
    recipe, gpu = row.split(" ")
    assert_peaks_are_stated(recipe, gpu, (), FROM_PLAN[row])

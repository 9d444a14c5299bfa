"""Page of the model families: its table of claims has the families that the named tests run with."""

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

from srpo_ray.models.families import FAMILIES, FLUX, FLUX2, FLUX2_KLEIN, KREA2, QWEN_IMAGE, QWEN_IMAGE21, SD3, Z_IMAGE
from srpo_ray.planning.verification import RECIPES
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "model_families.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}
COLUMNS = {"flux": FLUX, "sd3": SD3, "flux2_klein": FLUX2_KLEIN, "flux2": FLUX2, "z_image": Z_IMAGE}
COLUMNS |= {"qwen_image": QWEN_IMAGE, "krea2": KREA2, "qwen_image21": QWEN_IMAGE21}
"""Name of a family in tests -> the family, in the order of the table."""
NAMES = ("FLUX.1", "SD3", "FLUX.2 klein", "FLUX.2 dev", "Z-Image", "Qwen-Image", "Krea 2", "Qwen-Image-2.1")
ONLY = {
    "test_sd3_learns_with_classifier_free_guidance_and_its_export_draws_the_same": {"sd3"},
    "test_two_ranks_load_each_newer_family_into_halves_and_compute_its_velocity": {"flux2", "z_image", "qwen_image"},
    "test_two_workers_at_zero_3_change_the_weights_as_one_with_whole_weights": {
        *("flux2", "z_image", "qwen_image", "krea2", "qwen_image21")
    },
    "test_sweep_file_trains_what_it_searches_and_measures_what_it_chooses_by": {"flux", "sd3"},
    "test_threshold_of_zero_draws_the_images_without_a_cache_to_the_bit": {"flux", "sd3"},
    "test_published_families.py::test_model_has_the_number_of_weights_of_its_files": {
        *("flux2_klein", "flux2", "z_image", "qwen_image", "krea2", "qwen_image21")
    },
    "test_kohyas_file_of_krea_2_is_merged_as_by_diffusers_under_the_authors_names_and_as_by_hand": {"krea2"},
}
"""End of a test's name -> its families, if no parameter names them; other tests without one run with FLUX.1."""


def rows() -> list[tuple[str, list[str], list[str]]]:
    """Claim, cells and tests of each row."""
    found = []
    for line in re.findall(r"^\| (.+) \|$", SECTIONS["What is verified"], re.MULTILINE):
        claim, *cells, tests = line.split(" | ")
        if claim != "claim":
            found.append((claim, cells, re.findall(r"`(tests/[^`]+)`", tests)))
    return found


def values_of(function: Any) -> Iterator[str]:
    """Values of a test's parameters that name a family."""
    for mark in getattr(function, "pytestmark", ()):
        if mark.name == "parametrize":
            names, cases = mark.args
            names = names.replace(" ", "").split(",") if isinstance(names, str) else list(names)
            for case in cases:
                given = case.values if hasattr(case, "values") and not isinstance(case, dict) else case
                parts = (given,) if len(names) == 1 and not isinstance(given, tuple) else tuple(given)
                yield from (value for value in parts if isinstance(value, str) and value in COLUMNS)


def families_of(test: str) -> set[str]:
    file, _, name = test.partition("::")
    function = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)
    assert inspect.isfunction(function), test
    known = next((families for end, families in ONLY.items() if test.endswith(end)), None)
    return known or set(values_of(function)) or {"flux"}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_cell_says_yes_for_the_families_that_the_tests_run_with(row: tuple[str, list[str], list[str]]) -> None:
    claim, cells, tests = row
    assert tests, claim
    assert set(cells) <= {"yes", "no", "-"}
    tested = set().union(*(families_of(test) for test in tests))
    assert dict(zip(COLUMNS, (cell == "yes" for cell in cells), strict=True)) == {
        name: name in tested for name in COLUMNS
    }


def test_cell_says_no_where_the_family_refuses_the_setting() -> None:
    cells = {claim: [cell != "no" for cell in cells] for claim, cells, _ in rows()}
    context = next(found for claim, found in cells.items() if "context_parallel" in claim)
    cache = next(found for claim, found in cells.items() if "cache_threshold" in claim)
    decoder = next(found for claim, found in cells.items() if "model.decoder" in claim)
    compiled = next(found for claim, found in cells.items() if "model.compile" in claim)
    assert context == [family.context_parallel for family in COLUMNS.values()]
    assert cache == [family.block_cache for family in COLUMNS.values()]
    assert compiled == [family.equal_lengths for family in COLUMNS.values()]
    assert decoder == [family.vae == "AutoencoderKL" for family in COLUMNS.values()]


def test_there_is_a_section_of_equal_shape_for_each_family() -> None:
    assert list(SECTIONS)[2:] == list(NAMES)
    assert list(COLUMNS.values()) == list(FAMILIES.values())
    for name, family in zip(NAMES, COLUMNS.values(), strict=True):
        facts = re.findall(r"^\| ([^|]+) \|", SECTIONS[name], re.MULTILINE)
        assert f"`{family.pipeline}`" in SECTIONS[name]
        shared = ["models", "guidance", "`model.max_sequence_length`", "`rollout.shift`", "text encoders", "recipes"]
        assert [fact for fact in facts if fact in shared] == shared
        lacks = [family.block_cache, family.context_parallel, family.attention_kernels]
        assert ("not supported" in facts) == (not all(lacks))


def test_recipes_of_the_page_are_those_of_the_project_each_in_one_section() -> None:
    named = [recipe for name in NAMES for recipe in re.findall(r"`(\w+_(?:\d+gb|\dx80gb|32gpu))`", SECTIONS[name])]
    assert sorted(named) == sorted(recipe for recipe in RECIPES if not recipe.startswith("rewards_"))
    ran = [recipe for recipe, level in RECIPES.items() if level == "tiny CPU run"]
    assert all(f"`{recipe}`" in PAGE.partition("## What is verified")[0] for recipe in ran)
    assert {level for level in RECIPES.values() if "GPU," in level} == set()

"""Utilities are what the tastes state, and the people who validate are others than those who test."""

import pytest
import torch

from srpo_ray.small_world.prompts import caption, split_contents
from srpo_ray.small_world.renderer import render
from srpo_ray.small_world.scenes import scenes_of
from srpo_ray.small_world.tastes import TASTES, Taste, utilities, utility
from srpo_ray.small_world.truth import measure


def _metrics(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([value]) for name, value in values.items()}


def test_an_image_with_every_wish_and_the_right_content_has_the_highest_utility() -> None:
    # Wishes of 1 on the renderer's scale, in the units of `measure`.
    perfect = _metrics(detail=1.0, saturation=1.0, brightness=0.76, vignette=0.55, content_accuracy=1.0)
    taste = Taste(detail=(2.0, 1.0), saturation=(1.0, 1.0), brightness=(1.0, 1.0), vignette=(0.5, 1.0))
    assert utility(taste, perfect).item() == pytest.approx(4.0, abs=1e-5)
    gray = perfect | _metrics(saturation=0.35, content_accuracy=0.6)
    assert utility(taste, gray).item() == pytest.approx(4.0 * 0.6 - 1.0, abs=1e-5)


def test_too_much_of_a_liked_style_costs_as_much_as_too_little() -> None:
    taste = Taste(detail=(2.0, 0.6), saturation=(0.0, 0.5), brightness=(0.0, 0.5), vignette=(0.0, 0.5))
    rest = _metrics(saturation=0.5, brightness=0.5, vignette=0.1, content_accuracy=1.0)
    low, high = (utility(taste, rest | _metrics(detail=detail)).item() for detail in (0.4, 0.8))
    assert low == pytest.approx(high, abs=1e-5) == pytest.approx(4.0 - 2.0 * 0.2, abs=1e-5)


def test_every_kind_of_person_validates_and_another_one_tests() -> None:
    assert TASTES["validation"].keys() == TASTES["test"].keys()
    for kind, taste in TASTES["validation"].items():
        assert taste != TASTES["test"][kind]


def test_utilities_name_every_person_and_the_mean_of_each_group() -> None:
    contents = split_contents("test")[:4]
    metrics = measure(torch.from_numpy(render(scenes_of(contents, seed=3))), list(map(caption, contents)))
    found = utilities(metrics)
    for group, people in TASTES.items():
        values = torch.stack([found[f"utility/{group}/{name}"] for name in people])
        assert torch.allclose(found[f"utility/{group}/mean"], values.mean(0))
    assert len(found) == sum(len(people) + 1 for people in TASTES.values())

"""Updates of the algorithms come out as they did when they were recorded, on one rank and on two."""

import json
from typing import Any

import pytest

from tests.helpers.training.recorded import FILE, VARIANTS, WORLD_SIZES, here, train_on

RECORDED = json.loads(FILE.read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("recorded")
    return {world_size: train_on(world_size, folder) for world_size in WORLD_SIZES}


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_three_updates_come_out_as_recorded(trained: dict[int, Any], variant: str, world_size: int) -> None:
    found, expected = trained[world_size][variant], RECORDED["runs"][str(world_size)][variant]
    # A learning rate of 4e-6 moves most weights by 1e-5 in three updates.
    assert found["changes"] == pytest.approx(expected["changes"], rel=1e-2, abs=1e-7)
    for name, values in expected["metrics"].items():
        assert found["metrics"][name] == pytest.approx(values, rel=1e-4, abs=1e-6), name
    if here() == RECORDED["machine"]:
        assert found["sha256"] == expected["sha256"]

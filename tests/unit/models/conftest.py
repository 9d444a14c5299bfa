"""Tiny pipelines of all families, each saved once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.models.tiny_families import SAVERS


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Path of the tiny pipeline of a family by its name in `SAVERS`."""
    made: dict[str, Path] = {}

    def path(name: str) -> Path:
        if name not in made:
            made[name] = SAVERS[name](tmp_path_factory.mktemp(name))
        return made[name]

    return path

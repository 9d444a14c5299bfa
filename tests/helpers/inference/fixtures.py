import shutil
from pathlib import Path

import pytest

from tests.helpers.training.trained_run import trained_run

TINY = ("evaluation.num_steps=3", "evaluation.num_prompts=5", "evaluation.batch_size=4")


@pytest.fixture(scope="session")
def tiny_trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of the small world that evaluates five prompts, two images each, in three steps."""
    root = tmp_path_factory.mktemp("runs")
    trained_run(root / "mine", f"run_root={root}", *TINY)
    return root / "mine"


@pytest.fixture
def run_dir(tiny_trained_run: Path, tmp_path: Path) -> Path:
    """A copy of that run to write in."""
    return Path(shutil.copytree(tiny_trained_run, tmp_path / "runs" / "mine"))

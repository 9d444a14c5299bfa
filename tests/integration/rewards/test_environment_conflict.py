"""A package in two versions: the driver has the one, a reward's environment the other."""

import json
import os
import site
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from tests.helpers.rewards.conflict_script import QUERIES, images
from tests.helpers.rewards.wheels import write_taste


def driver_with_taste(folder: Path, wheels: Path) -> Path:
    """Interpreter of an environment with version 1 of `taste` and everything that this one has."""
    venv.EnvBuilder(symlinks=True).create(folder)
    packages = next((folder / "lib").iterdir()) / "site-packages"
    (packages / "tests.pth").write_text(
        "".join(f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages())
    )
    interpreter = folder / "bin" / "python"
    command = [interpreter, "-m", "pip", "install", "--no-index", "--no-deps", "--find-links", wheels, "taste==1"]
    subprocess.run(command, check=True, capture_output=True)
    return interpreter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conflict")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    wheels = folder / "wheels"
    for number in (1, 2):
        write_taste(wheels, number)
    environment = {
        **os.environ,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    interpreter = driver_with_taste(folder / "driver", wheels)
    command = [interpreter, "-m", "tests.helpers.rewards.conflict_script", folder]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def closed_form(version: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Total of each image, and gradient of the sum of its squares, in float64."""
    pixels = images(torch.float64)
    weights = torch.tensor([sum(weight for weight, _ in query.terms) for query in QUERIES], dtype=torch.float64)
    total = version * weights * pixels.sin().mean((1, 2, 3))
    return total, (2 * total * version * weights).view(-1, 1, 1, 1) * pixels.cos() / 48


def test_reward_has_its_own_version_beside_the_driver_s(found: dict[str, Any]) -> None:
    assert found["driver"] == "1"
    torch.testing.assert_close(torch.tensor(found["own"]), closed_form(2)[0].float())
    torch.testing.assert_close(torch.tensor(found["shared"]), closed_form(1)[0].float())


def test_gradient_through_the_pool_equals_the_closed_form(found: dict[str, Any]) -> None:
    total, gradient = closed_form(2)
    torch.testing.assert_close(torch.tensor(found["total"]), total.float())
    torch.testing.assert_close(torch.tensor(found["gradient"]), gradient.float(), rtol=1e-5, atol=1e-8)


def test_gradient_through_the_pipe_equals_the_closed_form_in_float64(found: dict[str, Any]) -> None:
    total, gradient = closed_form(2)
    torch.testing.assert_close(torch.tensor(found["total64"], dtype=torch.float64), total, rtol=1e-13, atol=0)
    torch.testing.assert_close(torch.tensor(found["gradient64"], dtype=torch.float64), gradient, rtol=1e-13, atol=0)


def test_killed_process_is_replaced_with_its_replica_and_the_call_replayed(found: dict[str, Any], folder: Path) -> None:
    assert found["replays"] >= 1
    assert not Path(f"/proc/{(folder / 'killed').read_text()}").exists()
    plain = closed_form(2)[0].float()
    torch.testing.assert_close(torch.tensor(found["again"]), plain)


def test_environment_has_the_conflicting_package_only_and_was_made_once(found: dict[str, Any], folder: Path) -> None:
    assert found
    environments = [path for path in (folder / "cache" / "srpo_ray" / "environments").iterdir() if path.is_dir()]
    assert len(environments) == 1
    packages = next((environments[0] / "lib").iterdir()) / "site-packages"
    names = {path.name for path in packages.iterdir()} - {"__pycache__"}
    assert names == {"srpo_ray_driver.pth", "taste.py", "taste-2.dist-info"}
    version_one = next((folder / "driver" / "lib").iterdir()) / "site-packages" / "taste.py"
    assert version_one.read_text() == "VERSION = 1\n"

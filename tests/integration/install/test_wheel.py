"""The wheel in an environment without the clone: its content, its commands, and the notebook with all of them."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from srpo_ray import __version__
from tests.conftest import ROOT, TINY
from tests.helpers.install.sources import WHEEL_SOURCES

UV = Path(sys.executable).with_name("uv")
NOTEBOOK = ROOT / "notebooks" / "small_world.ipynb"
LARGEST_MIB = 20.0
SETTINGS = [*TINY, "training.num_updates=2", "rewards.in_process=true"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the clone, as far as a build reads it."""
    source = tmp_path_factory.mktemp("source")
    for name in WHEEL_SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a release builds it: from the source distribution."""
    out = tmp_path_factory.mktemp("dist")
    build = [UV, "build", "--offline", "--no-build-isolation", "--python", sys.executable, "--out-dir", out, source]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


def new_environment(folder: Path) -> Path:
    """Make a virtual environment that sees the packages of this test's environment by a path, and return its Python.

    Python does not run the `.pth` files of a folder that an entry of another one names, so the editable install of the
    clone is not found there.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def install(python: Path, *words: str | Path) -> None:
    """Install the project alone, without network."""
    command = [UV, "pip", "install", "--offline", "--no-deps", "--no-build-isolation", "--python", python, *words]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and a kernel for notebooks."""
    folder = tmp_path_factory.mktemp("fresh") / "environment"
    python = new_environment(folder)
    install(python, wheel)
    kernel = folder / "share" / "jupyter" / "kernels" / "fresh" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": command, "display_name": "fresh", "language": "python"}))
    return folder


@pytest.fixture
def outside(environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder outside the clone, with the commands of the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{environment / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return tmp_path


def output(command: Sequence[str | Path]) -> str:
    """What a command prints, its messages too."""
    found = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert found.returncode == 0, found.stdout
    return found.stdout


def test_wheel_has_the_package_the_configs_and_the_licence_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    metadata = f"srpo_ray-{__version__}.dist-info/"
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "srpo_ray").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    project = {
        f"srpo_ray/_project/{path.relative_to(ROOT).as_posix()}"
        for folder in ("configs", "cluster")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    }
    files = {"srpo_ray/_project/cluster.yaml", "srpo_ray/_project/constraints.txt"}
    assert {name for name in names if not name.startswith(metadata)} == package | project | files
    assert f"{metadata}licenses/LICENSE" in names
    assert any(name.endswith("weights/flux/transformer/diffusion_pytorch_model.safetensors") for name in names)
    assert wheel.stat().st_size < LARGEST_MIB * 2**20


def test_command_outside_the_clone_runs_the_wheel(environment: Path, outside: Path) -> None:
    program = environment / "bin" / "srpo-ray"
    assert output([program, "--version"]) == f"srpo-ray {__version__}\n"
    python = environment / "bin" / "python"
    where = output([python, "-c", "import srpo_ray; print(srpo_ray.__file__)"])
    assert Path(where.strip()).is_relative_to(environment)
    assert str(ROOT) not in output([python, "-c", "import sys; print(*sys.path, sep='\\n')"]).splitlines()


def test_default_sweep_and_packaged_layers_are_found_outside_the_clone(environment: Path, outside: Path) -> None:
    program = environment / "bin" / "srpo-ray"
    swept = output([program, "sweep", "--dry-run"])
    assert "base: ../small_world.yaml" in swept
    assert "configs/experiments/small_world_sweep.yaml is not in" in swept
    assert str(environment) in swept
    layered = output(
        [program, "train", "configs/small_world.yaml", "configs/presets/srpo_reference_pickscore.yaml", "--dry-run"]
    )
    assert "name: small_world" in layered


def test_editable_install_reads_the_configs_of_the_clone(source: Path, outside: Path) -> None:
    python = new_environment(outside / "editable")
    install(python, "--editable", source)
    (source / "configs" / "new.yaml").write_text("name: new\n")
    shown = output([python.with_name("srpo-ray"), "train", "configs/small_world.yaml", "configs/new.yaml", "--dry-run"])
    assert "name: new" in shown
    assert not (source / "srpo_ray" / "_project").exists()


def test_notebook_trains_sweeps_reports_and_samples_with_the_wheel(
    environment: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(environment / "share" / "jupyter"))
    monkeypatch.setenv("SETTINGS", " ".join(SETTINGS))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, kernel_name="fresh", timeout=600).execute()
    shown = [data for cell in notebook.cells for result in cell.get("outputs", []) for data in result.get("data", {})]
    assert shown.count("image/png") == 2
    run, sweep = (outside / "my_study" / "runs" / name for name in ("my_study", "my_study_sweep"))
    assert [json.loads(line)["update"] for line in (run / "evaluations.jsonl").read_text().splitlines()] == [0, 2]
    rows = (sweep / "runs.csv").read_text().splitlines()[1:]
    assert sorted(row.split(",")[2] for row in rows) == ["base", "trial", "trial"]
    report = (sweep / "report.html").read_text()
    assert "SRPO_trial_1" in report
    # There are no scripts outside the clone, so the report names the command.
    assert "srpo-ray sweep sweep.yaml" in report
    assert "experiments/sweep.py" not in report

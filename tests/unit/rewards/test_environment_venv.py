import sys
import sysconfig
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from srpo_ray.config import apply, load_run
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.config.reward_environment import EnvironmentSection
from srpo_ray.config.rewards import PythonRewardConfig
from srpo_ray.rewards.environment import venv
from srpo_ray.rewards.environment.bootstrap import extended
from srpo_ray.rewards.environment.process import find_interpreter, project_folders
from srpo_ray.rewards.environment.venv import DRIVER_PTH, READY, environment_key, packages_folder, provide_environment
from tests.conftest import SMALL_WORLD


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "srpo_ray" / "environments"


def test_key_depends_on_every_input_and_not_on_order_or_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "a.whl"
    wheel.write_text("1")
    site = tmp_path / "site"
    (site / "torch-2.0.dist-info").mkdir(parents=True)
    packages, folders = ["b==1", "c  >2", str(wheel)], [str(site)]
    key = environment_key(packages, folders)

    assert environment_key([str(wheel), "c >2", "b==1"], folders) == key
    keys = [key, environment_key(["b==2", *packages[1:]], folders), environment_key(packages, [])]
    wheel.write_text("2")
    keys.append(environment_key(packages, folders))
    (site / "torch-2.0.dist-info").rename(site / "torch-2.1.dist-info")
    keys.append(environment_key(packages, folders))
    monkeypatch.setattr(sysconfig, "get_platform", lambda: "another")
    keys.append(environment_key(packages, folders))
    monkeypatch.setattr(sys, "base_prefix", "/other/python")
    keys.append(environment_key(packages, folders))
    assert len(set(keys)) == 7


def test_environment_is_made_once_by_concurrent_callers_and_found_later() -> None:
    made: list[Path] = []
    inside = threading.Event()

    def install(folder: Path, _packages: Sequence[str]) -> None:
        made.append(folder)
        # The other callers wait for the lock meanwhile.
        inside.wait(0.5)

    found: list[Path] = []
    callers = [threading.Thread(target=lambda: found.append(provide_environment(["a==1"], install))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()

    assert len(made) == 1
    assert set(found) == {made[0] / "bin" / "python"}
    assert found[0].exists()
    assert provide_environment(["a==1"], install) == found[0]
    assert provide_environment(["a==2"], install) != found[0]
    assert len(made) == 2


def test_unfinished_environment_is_made_again(cache: Path) -> None:
    def fail(_folder: Path, _packages: Sequence[str]) -> None:
        raise ValueError("no such package")

    with pytest.raises(ValueError, match="no such package"):
        provide_environment(["a"], fail)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    assert not (folder / READY).exists()
    (folder / "rest").touch()

    interpreter = provide_environment(["a"], lambda _folder, _packages: None)

    assert interpreter == folder / "bin" / "python"
    assert (folder / READY).exists()
    assert not (folder / "rest").exists()


def test_environment_whose_interpreter_is_gone_is_made_again() -> None:
    interpreter = provide_environment(["a"], lambda _folder, _packages: None)
    interpreter.unlink()
    assert not interpreter.exists()
    assert provide_environment(["a"], lambda _folder, _packages: None).exists()


def test_pth_names_the_folders_of_the_driver_after_the_own_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venv, "driver_folders", lambda: ["/opt/it's/site-packages", "/b"])

    folder = provide_environment(["a"], lambda _folder, _packages: None).parent.parent

    lines = (packages_folder(folder) / DRIVER_PTH).read_text().splitlines()
    assert lines == ['import site; site.addsitedir("/opt/it\'s/site-packages")', "import site; site.addsitedir('/b')"]


def test_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))

    with pytest.raises(ValueError, match=r"that can be written, got .*file.*set XDG_CACHE_HOME"):
        provide_environment(["a"])


def test_project_stands_between_own_and_shared_packages() -> None:
    setting = {"package": "", "project": ["/project", "/lib"], "shared": ["/driver", "/user"]}
    assert extended(["/lib", "/own", "/driver", "/edit"], setting) == ["/lib", "/own", "/project", "/driver", "/edit"]  # pyright: ignore[reportArgumentType]
    assert extended(["/lib", "/own"], setting) == ["/lib", "/own", "/project"]  # pyright: ignore[reportArgumentType]


def test_folders_of_the_project_are_neither_library_nor_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    library = sysconfig.get_path("stdlib")
    path = ["", "/work/code", library, f"{library}/lib-dynload", "/usr/lib/python311.zip", "/site", "/site/ray/parts"]
    assert project_folders(path, ["/site"]) == ["/", "/work/code"]


@pytest.mark.parametrize("value", [{}, {"packages": [], "python": None}, {"packages": ["a"], "python": "/b"}])
def test_environment_is_either_packages_or_an_interpreter(value: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"expected either packages.*or python.*got (both|neither)"):
        EnvironmentSection.model_validate(value)


@pytest.mark.parametrize("package", ["", " a", "--index-url=http://x", "-e ."])
def test_options_of_pip_are_no_requirement(package: str) -> None:
    with pytest.raises(ValidationError, match="packages"):
        EnvironmentSection(packages=(package,))


def test_interpreter_that_is_no_program_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match=rf"expected the interpreter.*got '{path}'.*correct `environment.python`"):
            find_interpreter(EnvironmentSection(python=str(path)))


def test_paths_become_absolute_and_links_to_interpreters_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "python").symlink_to(sys.executable)
    (tmp_path / "a.whl").touch()
    models = [
        {"name": "a", "type": "python", "target": "m:C", "environment": {"python": "python"}},
        {"name": "b", "type": "python", "target": "m:C", "environment": {"packages": ["a.whl", "b==1"]}},
    ]

    found = with_absolute_paths(apply(load_run([SMALL_WORLD]), {"evaluation.held_out": models})).evaluation.held_out

    environments = [model.environment for model in found if isinstance(model, PythonRewardConfig)]
    assert environments == [
        EnvironmentSection(python=str(tmp_path / "python")),
        EnvironmentSection(packages=(str(tmp_path / "a.whl"), "b==1")),
    ]

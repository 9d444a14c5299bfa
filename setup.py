"""Build of the wheel: everything else is in `pyproject.toml`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
PROJECT_FILES = ("configs", "cluster", "cluster.yaml", "constraints.txt")
"""Files of the repository's root that an installed package needs; `srpo_ray.packaged` finds them."""


class BuildWithProjectFiles(build_py):
    """Copy the project's configs and cluster files into the wheel, as `srpo_ray/_project/`."""

    def run(self) -> None:
        """Copy the modules, and the project's files unless the install is editable and reads them in place."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "srpo_ray" / "_project"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in PROJECT_FILES:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target / name)


setup(cmdclass={"build_py": BuildWithProjectFiles})

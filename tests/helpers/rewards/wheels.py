"""Wheels that tests build without a build tool and install without a network."""

import zipfile
from collections.abc import Mapping
from pathlib import Path


def write_wheel(folder: Path, name: str, version: str, files: Mapping[str, str]) -> Path:
    """Write the wheel of a package of pure Python, without dependencies.

    Args:
        folder: Folder of the wheel.
        name: Name of the package.
        version: Its version.
        files: Path inside the wheel -> content.
    """
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**content, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)
    return wheel


def write_taste(folder: Path, version: int) -> Path:
    """Write a wheel of `taste`, whose module has its version as a number."""
    return write_wheel(folder, "taste", str(version), {"taste.py": f"VERSION = {version}\n"})

"""Project files beside the modules: configs, recipes and cluster files, in a wheel or in a clone."""

import difflib
from pathlib import Path

CONFIGS = "configs"
"""Folder of the packaged configs, and first part of their names."""


def project_files() -> Path:
    """Return the folder that contains `configs/`, `cluster/` and `cluster.yaml`.

    A wheel contains a copy of them; in a clone or an editable install, it is the root of the repository.
    """
    package = Path(__file__).parent
    installed = package / "_project"
    return installed if installed.is_dir() else package.parent


def packaged_config(name: str | Path) -> Path | None:
    """Find a packaged config file.

    Args:
        name: Name such as `configs/recipes/flux_lora_80gb.yaml`.

    Returns:
        Path of the file; None if the name is not one of a packaged config.
    """
    name = Path(name)
    if name.is_absolute() or ".." in name.parts or name.parts[:1] != (CONFIGS,):
        return None
    path = project_files() / name
    return path if path.is_file() else None


def packaged_configs() -> list[str]:
    """List the names of all packaged config files, sorted."""
    root = project_files()
    return sorted(path.relative_to(root).as_posix() for path in (root / CONFIGS).rglob("*.yaml"))


def near_configs(path: Path) -> list[str]:
    """List up to three config files whose names resemble that of a missing one, the nearest first.

    Args:
        path: Path of the missing file.

    Returns:
        Paths of files in the same folder, and names of packaged configs.
    """
    beside = (path.with_name(other.name) for other in path.parent.glob("*.y*ml")) if path.parent.is_dir() else ()
    candidates = dict.fromkeys([*(str(other) for other in beside), *packaged_configs()])
    stems = {candidate: Path(candidate).stem for candidate in candidates}
    close = difflib.get_close_matches(path.stem, sorted(set(stems.values())), n=3)
    return [candidate for stem in close for candidate in candidates if stems[candidate] == stem][:3]

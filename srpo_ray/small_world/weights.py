"""Shipped weights of the small world: their folders, manifest and verification."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).parent / "weights"
REWARDS = ("contrastive", "preference", "preference_unbiased", "preference_biased", "held_out")


def flux_dir() -> Path:
    """Return the folder of the pipeline, for `diffusers.FluxPipeline.from_pretrained`."""
    return WEIGHTS / "flux"


def reward_dir(name: str) -> Path:
    """Return the open_clip folder of a reward model, for open_clip's name `"local-dir:<folder>"`.

    Raises:
        ValueError: if there is no such reward model.
    """
    if name not in REWARDS:
        raise ValueError(f"reward_dir: expected one of {REWARDS}, got {name!r}; choose one of these")
    return WEIGHTS / "rewards" / name


def manifest(root: Path = WEIGHTS) -> dict[str, Any]:
    """Return the manifest: files with sizes and hashes, build command, seconds, training curves, metrics.

    Raises:
        ValueError: if the folder has no manifest.
    """
    path = root / "manifest.json"
    if not path.is_file():
        raise ValueError(f"expected a manifest at {path}, got none; rebuild with python -m srpo_ray.small_world.build")
    return json.loads(path.read_text())


def verify(root: Path = WEIGHTS) -> None:
    """Verify every file against the manifest.

    Raises:
        ValueError: for the first file that is missing, extra or changed.
    """
    expected: dict[str, dict[str, Any]] = manifest(root)["files"]
    found = list_files(root)
    cure = "reinstall the package or rebuild with python -m srpo_ray.small_world.build"
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise ValueError(f"weights file {name}: expected {expected.get(name)}, got {found.get(name)}; {cure}")


def list_files(root: Path) -> dict[str, dict[str, Any]]:
    """Return size in bytes and sha256 of every file under `root` except the manifest, by relative path."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(root).as_posix(): _describe(path) for path in files}


def _describe(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

"""Absolute paths for a config that other processes with other working folders read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srpo_ray.config.load import apply
from srpo_ray.config.reward_environment import EnvironmentSection
from srpo_ray.config.run import RunConfig
from srpo_ray.config.tracking import SQLITE, sqlite_uri


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Make every local path of a config absolute, relative to the working folder of this process.

    Hub ids, embedded names (`small_world:train`) and paths that do not exist do not change.
    """
    changes = {
        "run_root": str(Path(config.run_root).resolve()),
        "model.path": _absolute(config.model.path),
        "data.prompts": _absolute(config.data.prompts),
        "evaluation.prompts": _absolute(config.evaluation.prompts),
    }
    if config.start_from:
        changes["start_from"] = str(Path(config.start_from).resolve())
    if config.model.decoder:
        changes["model.decoder"] = _absolute(config.model.decoder)
    if config.model.lora and config.model.lora.start_from:
        changes["model.lora.start_from"] = _absolute(config.model.lora.start_from)
    if config.evaluation.contrast_with:
        changes["evaluation.contrast_with"] = str(Path(config.evaluation.contrast_with).resolve())
    if config.evaluation.test:
        changes["evaluation.test.prompts"] = _absolute(config.evaluation.test.prompts)
    if config.data.images and not config.data.images.startswith("small_world"):
        # This is never a hub id, but may be a glob pattern, which does not exist as a file.
        changes["data.images"] = str(Path.cwd() / config.data.images)
    if config.data.pairs and not config.data.pairs.startswith("small_world"):
        changes["data.pairs"] = str(Path.cwd() / config.data.pairs)
    storage = config.training.checkpoint_storage
    if storage and "://" not in storage:
        changes["training.checkpoint_storage"] = str(Path(storage).resolve())
    uri = config.tracking.uri
    if uri and uri.startswith(SQLITE) and not uri.startswith(f"{SQLITE}/"):
        changes["tracking.uri"] = f"{sqlite_uri(Path.cwd())}/{uri.removeprefix(SQLITE)}"
    changes |= _reward_paths("rewards.models", config.rewards.models)
    changes |= _reward_paths("evaluation.held_out", config.evaluation.held_out)
    return apply(config, changes)


def _reward_paths(section: str, models: Sequence[Any]) -> dict[str, Any]:
    """Absolute paths of the reward models of a section, by config path."""
    changes: dict[str, Any] = {}
    for index, model in enumerate(models):
        for key in ("path", "backbone", "tokenizer", "questions"):
            if path := getattr(model, key, None):
                changes[f"{section}.{index}.{key}"] = _absolute(path)
        if common := getattr(model, "common", None):
            changes[f"{section}.{index}.common.prompts"] = _absolute(common.prompts)
        if environment := getattr(model, "environment", None):
            changes[f"{section}.{index}.environment"] = _absolute_environment(environment)
    return changes


def _absolute_environment(environment: EnvironmentSection) -> dict[str, Any]:
    if environment.python:
        # Not resolved: the interpreter of a virtual environment is a link, and its place names the environment.
        return {"python": str(Path.cwd() / environment.python)}
    return {"packages": [_absolute(package) for package in environment.packages]}


def _absolute(path: str) -> str:
    local = Path(path)
    return str(local.resolve()) if local.exists() and not path.startswith("small_world") else path

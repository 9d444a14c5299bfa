"""Typed config of a run, loaded and checked without torch or Ray."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srpo_ray.config.experiment import ExperimentConfig
    from srpo_ray.config.experiment_file import load_experiment
    from srpo_ray.config.load import ConfigError, apply, load_run, to_yaml
    from srpo_ray.config.run import RunConfig

_MODULES = {
    "ConfigError": "load",
    "ExperimentConfig": "experiment",
    "RunConfig": "run",
    "apply": "load",
    "load_experiment": "experiment_file",
    "load_run": "load",
    "to_yaml": "load",
}

__all__ = [
    "ConfigError",
    "ExperimentConfig",
    "RunConfig",
    "apply",
    "load_experiment",
    "load_run",
    "to_yaml",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)

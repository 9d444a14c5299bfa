"""Typed config of a run, loaded and checked without torch or Ray."""

from srpo_ray.config.load import ConfigError, apply, load_run, load_study, load_sweep, to_yaml
from srpo_ray.config.run import RunConfig
from srpo_ray.config.study import StudyConfig
from srpo_ray.config.sweep import SweepConfig

__all__ = [
    "ConfigError",
    "RunConfig",
    "StudyConfig",
    "SweepConfig",
    "apply",
    "load_run",
    "load_study",
    "load_sweep",
    "to_yaml",
]

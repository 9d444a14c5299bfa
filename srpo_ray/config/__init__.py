"""Typed config of a run, loaded and checked without torch or Ray."""

from srpo_ray.config.experiment import ExperimentConfig
from srpo_ray.config.experiment_file import load_experiment
from srpo_ray.config.load import ConfigError, apply, load_run, to_yaml
from srpo_ray.config.run import RunConfig

__all__ = [
    "ConfigError",
    "ExperimentConfig",
    "RunConfig",
    "apply",
    "load_experiment",
    "load_run",
    "to_yaml",
]

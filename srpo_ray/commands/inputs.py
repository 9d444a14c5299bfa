"""What several commands read."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from srpo_ray.arguments import DEFAULT_EXPERIMENTS

if TYPE_CHECKING:
    from srpo_ray.config import ExperimentConfig, RunConfig


def files_and_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Config files and `a.b=value` overrides."""
    files = [word for word in words if "=" not in word]
    return files, [word for word in words if "=" in word]


def report_input_issues(config: "RunConfig") -> None:
    """Say what of the prompts and images is left out, repeated or cut, before anything is started."""
    from srpo_ray.launch.preflight import check_inputs, input_notes

    check_inputs(config)
    for note in input_notes(config):
        print(f"srpo-ray: {note}", file=sys.stderr)


def load_or_resume(parsed: argparse.Namespace) -> "tuple[ExperimentConfig, RunConfig]":
    """The configs of an experiment, from its file and overrides or from the folder that it was begun in."""
    from srpo_ray.config import ConfigError, load_experiment

    files, overrides = files_and_overrides(parsed.config)
    if parsed.resume:
        if files or overrides:
            raise ConfigError("--resume takes the configs in its folder, so give no file or override beside it")
        from srpo_ray.search.folder import load_experiment_folder

        return load_experiment_folder(Path(parsed.resume))
    if len(files) > 1:
        raise ConfigError(f"expected one file, got {len(files)}: {', '.join(files)}; give values as a.b=value")
    return load_experiment(files[0] if files else DEFAULT_EXPERIMENTS[parsed.command], overrides)

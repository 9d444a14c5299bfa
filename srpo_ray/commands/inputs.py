"""What several commands read."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from srpo_ray.config import RunConfig, StudyConfig, SweepConfig

StudyT = TypeVar("StudyT", "SweepConfig", "StudyConfig")


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


def load_or_resume(
    parsed: argparse.Namespace,
    schema: type[StudyT],
    load: "Callable[[str, Sequence[str]], tuple[StudyT, RunConfig]]",
    default: str,
) -> "tuple[StudyT, RunConfig]":
    """The configs of a sweep or study, from its file and overrides or from the folder that it was begun in."""
    from srpo_ray.config import ConfigError

    files, overrides = files_and_overrides(parsed.config)
    if parsed.resume:
        if files or overrides:
            raise ConfigError("--resume takes the configs in its folder, so give no file or override beside it")
        from srpo_ray.tuning.folder import load_study_folder

        return load_study_folder(Path(parsed.resume), schema)
    if len(files) > 1:
        raise ConfigError(f"expected one file, got {len(files)}: {', '.join(files)}; give values as a.b=value")
    return load(files[0] if files else default, overrides)

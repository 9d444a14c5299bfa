"""The folder of a sweep or a study of methods: what makes it the same one when it is resumed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from srpo_ray.config import ConfigError, RunConfig, StudyConfig, SweepConfig, load_run, to_yaml
from srpo_ray.config.base import Section
from srpo_ray.config.load import read_yaml, validate
from srpo_ray.files import write_text
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.inputs import input_hashes, keep_inputs

StudyT = TypeVar("StudyT", SweepConfig, StudyConfig)

_KINDS: Mapping[type[Section], str] = {SweepConfig: "sweep", StudyConfig: "study"}
_BASE = "base.yaml"


def open_study_folder(config: SweepConfig | StudyConfig, base: RunConfig, variants: Sequence[RunConfig] = ()) -> Path:
    """Make the folder of a sweep or study, or open it again to continue the same one with the same inputs.

    Args:
        config: The sweep or study.
        base: Config that its runs start from.
        variants: Configs of runs that may read other files than the base config.

    Raises:
        ValueError: If it cannot be written, belongs to another sweep or study, or the content of an input has changed
            since it began.
    """
    folder, kind = Path(base.run_root) / config.name, _KINDS[type(config)]
    RunFolder(folder).make()
    own, shared = folder / f"{kind}.yaml", folder / _BASE
    # Compared as configs: one of an older version lacks options that have since been given defaults.
    same = {
        own: not own.exists() or validate(type(config), read_yaml(own), str(own)) == config,
        shared: not shared.exists() or load_run([shared]) == base,
    }
    for file, is_same in same.items():
        if not is_same:
            raise ValueError(
                f"expected {folder} to be new or to hold this same {kind}, got another one ({file.name} differs);"
                f" choose another name with `{kind}.name=...`, resume that one with `--resume {folder}`, or remove it"
            )
    keep_inputs(
        RunFolder(folder).inputs,
        input_hashes(base, *variants),
        has_results=own.exists() and any((folder / "trials").glob("*/evaluations.jsonl")),
        cure=f"choose another name with `{kind}.name=...` or remove the folder",
    )
    for file, section in ((own, config), (shared, base)):
        write_text(file, to_yaml(section))
    return folder


def first_command(folder: Path, command: str) -> str:
    """The command that a sweep or study was begun with: one that goes on with it does not name its settings."""
    file = folder / "command.txt"
    if not file.exists():
        write_text(file, command + "\n")
    return file.read_text().strip()


def load_study_folder(folder: Path, schema: type[StudyT]) -> tuple[StudyT, RunConfig]:
    """The configs of a sweep or study that was begun.

    Args:
        folder: Its folder.
        schema: Which of the two it is expected to be.

    Raises:
        ValueError: If there is none in the folder.
    """
    kind = _KINDS[schema]
    file, base = folder / f"{kind}.yaml", folder / _BASE
    if not file.is_file() or not base.is_file():
        raise ConfigError(
            f"--resume: expected the folder of a {kind}, with {file.name} and {_BASE}, got {folder};"
            f" it is the folder that the {kind} printed when it began"
        )
    return validate(schema, read_yaml(file), str(folder)), load_run([base])

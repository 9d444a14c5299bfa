"""Folder of an experiment: what makes it the same experiment when it is resumed."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from srpo_ray.config import ConfigError, ExperimentConfig, RunConfig, load_run, to_yaml
from srpo_ray.config.load import read_yaml, validate
from srpo_ray.files import write_text
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.inputs import input_hashes, keep_inputs
from srpo_ray.search.budget_change import change_budget

_OWN, _BASE = "experiment.yaml", "base.yaml"


def open_experiment_folder(config: ExperimentConfig, base: RunConfig, variants: Sequence[RunConfig] = ()) -> Path:
    """Make the folder of an experiment, or open it again to resume the same experiment with the same inputs.

    Budget and price may differ: runs that an earlier budget refused then ask again.

    Args:
        config: The experiment.
        base: Config that its runs start from.
        variants: Configs of runs that may read other files than the base config.

    Raises:
        ValueError: If it cannot be written, belongs to another experiment, or the content of an input has changed since
            the experiment began.
    """
    folder = Path(base.run_root) / config.name
    RunFolder(folder).make()
    own, shared = folder / _OWN, folder / _BASE
    # Compared as configs: one of an older version lacks options that have since been given defaults.
    earlier = validate(ExperimentConfig, read_yaml(own), str(own)) if own.exists() else config
    same = {
        own: _without_budget(earlier) == _without_budget(config),
        shared: not shared.exists() or load_run([shared]) == base,
    }
    for file, is_same in same.items():
        if not is_same:
            resume = resume_command("--resume", folder)
            raise ValueError(
                f"expected {folder} to be new or to belong to this experiment, got another one ({file.name} differs);"
                f" choose another name with `experiment.name=...`, resume that one with `{resume}`, or remove it"
            )
    keep_inputs(
        RunFolder(folder).inputs,
        input_hashes(base, *variants),
        has_results=own.exists() and any((folder / "trials").glob("*/evaluations.jsonl")),
        cure="choose another name with `experiment.name=...` or remove the folder",
    )
    if (earlier.budget, earlier.price) != (config.budget, config.price):
        change_budget(folder)
    for file, section in ((own, config), (shared, base)):
        write_text(file, to_yaml(section))
    return folder


def _without_budget(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment apart from what it may spend: it trains the same runs."""
    return config.model_copy(update={"budget": None, "price": None})


def resume_command(beginning: str, folder: Path) -> str:
    """The command that resumes an experiment, quoted for a shell.

    Args:
        beginning: The command up to its option `--resume`.
        folder: Folder of the experiment.
    """
    return f"{beginning} {shlex.quote(str(folder))}"


def first_command(folder: Path, command: str) -> str:
    """The command that began the experiment. A command that resumes it does not name its settings."""
    file = folder / "command.txt"
    if not file.exists():
        write_text(file, command + "\n")
    return file.read_text().strip()


def load_experiment_folder(folder: Path) -> tuple[ExperimentConfig, RunConfig]:
    """Load the configs of an experiment that was begun.

    Args:
        folder: Its folder.

    Raises:
        ValueError: If there is none in the folder.
    """
    file, base = folder / _OWN, folder / _BASE
    if not file.is_file() or not base.is_file():
        raise ConfigError(
            f"--resume: expected the folder of an experiment, with {_OWN} and {_BASE}, got {folder};"
            " it is the folder that the sweep or comparison printed when it began"
        )
    return validate(ExperimentConfig, read_yaml(file), str(folder)), load_run([base])

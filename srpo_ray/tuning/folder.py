"""The folder of a sweep: what makes it the same sweep when it is resumed."""

from pathlib import Path

from srpo_ray.config import ConfigError, RunConfig, SweepConfig, load_run, to_yaml
from srpo_ray.config.load import read_yaml, validate
from srpo_ray.files import write_text
from srpo_ray.training.run_folder import RunFolder


def open_sweep_folder(sweep: SweepConfig, base: RunConfig) -> Path:
    """Make the sweep's folder, or open it again to go on with the same sweep.

    Raises:
        ValueError: If it cannot be written, or belongs to another sweep.
    """
    folder = Path(base.run_root) / sweep.name
    RunFolder(folder).make()
    for file, config in ((folder / "sweep.yaml", sweep), (folder / "base.yaml", base)):
        text = to_yaml(config)
        if file.exists() and file.read_text() != text:
            raise ValueError(
                f"expected {folder} to be new or to hold this same sweep, got another one ({file.name} differs);"
                f" choose another name with `sweep.name=...`, resume that one with `--resume {folder}`, or remove it"
            )
        write_text(file, text)
    return folder


def load_sweep_folder(folder: Path) -> tuple[SweepConfig, RunConfig]:
    """The configs of a sweep that was begun.

    Raises:
        ValueError: If there is no sweep in the folder.
    """
    if not (folder / "sweep.yaml").is_file() or not (folder / "base.yaml").is_file():
        raise ConfigError(
            f"--resume: expected the folder of a sweep, with sweep.yaml and base.yaml, got {folder};"
            " it is the folder that the sweep printed when it began"
        )
    return validate(SweepConfig, read_yaml(folder / "sweep.yaml"), str(folder)), load_run([folder / "base.yaml"])

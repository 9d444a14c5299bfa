"""What can be refused before any process starts: prompts, model folder, run folder."""

from pathlib import Path

from srpo_ray.config import RunConfig, to_yaml
from srpo_ray.config.load import ConfigError, load_run
from srpo_ray.data.images import load_images
from srpo_ray.data.prompts import load_prompts
from srpo_ray.files import write_text
from srpo_ray.models.paths import resolve_path
from srpo_ray.training.run_folder import RunFolder


def check_inputs(config: RunConfig) -> None:
    """Check what a run reads.

    Raises:
        ValueError: If a prompt file or the model folder cannot be used.
    """
    if config.data.images:
        load_images(config.data.images)
    else:
        load_prompts(config.data.prompts)
    load_prompts(config.evaluation.prompts, "evaluation.prompts")
    path = Path(resolve_path(config.model.path))
    # A hub id has exactly one slash and no such folder here; all else must be a folder.
    is_hub_id = not path.exists() and not path.is_absolute() and config.model.path.count("/") == 1
    if not is_hub_id and not (path / "transformer" / "config.json").is_file():
        raise ValueError(
            f"model.path: expected a folder with a FluxPipeline in the diffusers layout, got {config.model.path!r},"
            f" which has no transformer/config.json; give the folder that `FluxPipeline.save_pretrained` wrote,"
            " a hub id like ORG/NAME, or small_world"
        )


def open_run_folder(config: RunConfig, path: Path) -> RunFolder:
    """Make the run's folder, or open it again to go on with the same config.

    Raises:
        ValueError: If it cannot be written, or belongs to a run with another config.
    """
    folder = RunFolder(path)
    folder.make()
    if folder.config.exists():
        try:
            same = load_run([folder.config]) == config
        except ConfigError:
            same = False
        if not same:
            raise ValueError(
                f"expected {folder.path} to be new or to hold this same run, got a run with another config"
                f" ({folder.config}); choose another `name`, or remove the folder"
            )
    else:
        write_text(folder.config, to_yaml(config))
    return folder

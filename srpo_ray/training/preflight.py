"""What can be refused before any process starts: prompts, model folder, rewards that do not fit, run folder."""

from pathlib import Path

from srpo_ray.config import RunConfig, to_yaml
from srpo_ray.config.load import ConfigError, load_run
from srpo_ray.data.images import load_images
from srpo_ray.data.prompts import load_prompts
from srpo_ray.files import write_text
from srpo_ray.models.families import family_of
from srpo_ray.models.paths import resolve_path
from srpo_ray.rewards.build import declares_image_gradient
from srpo_ray.training.run_folder import RunFolder


def check_inputs(config: RunConfig) -> None:
    """Check what a run reads.

    Raises:
        ValueError: If a prompt file or the model folder cannot be used, or the algorithm needs a gradient that a
            reward does not have.
    """
    check_rewards(config)
    if config.data.images:
        load_images(config.data.images)
    else:
        load_prompts(config.data.prompts)
    load_prompts(config.evaluation.prompts, "evaluation.prompts")
    check_model(config.model.path)


def check_model(path: str) -> None:
    """Check that there is a pipeline of a known family, as far as that needs no weights.

    Raises:
        ValueError: If there is none, it cannot be read, or a folder lacks one of its parts.
    """
    family = family_of(path)
    folder = Path(resolve_path(path))
    missing = [part for part in family.parts if folder.is_dir() and not (folder / part).exists()]
    if missing:
        raise ValueError(
            f"model.path: expected a folder with a {family.pipeline} in the diffusers layout, got {path!r}, which has"
            f" no {', '.join(missing)}; give the folder that `{family.pipeline}.save_pretrained` wrote"
        )


def check_rewards(config: RunConfig) -> None:
    """Check that the algorithm can learn from every reward that is trained on.

    Raises:
        ValueError: If it needs image gradients and a reward declares that it has none.
    """
    if not config.algorithm.needs_image_gradient:
        return
    without = [model.name for model in config.rewards.models if not declares_image_gradient(model)]
    if without:
        raise ValueError(
            f"expected rewards with image gradients for algorithm.type={config.algorithm.type}, got"
            f" {', '.join(without)} with image_gradient = False; train with algorithm.type=dance_grpo, which needs"
            " none, or take the model out of rewards.models"
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

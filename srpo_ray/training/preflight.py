"""What can be refused or said before any process starts: prompts, model folder, rewards that do not fit, run folder."""

from pathlib import Path

from srpo_ray.config import RunConfig, to_yaml
from srpo_ray.config.load import ConfigError, load_run
from srpo_ray.data.texts import read_texts
from srpo_ray.files import write_text
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.text import cut_prompts
from srpo_ray.rewards.build import declares_image_gradient
from srpo_ray.training.run_folder import RunFolder

MODEL_PARTS = (
    "model_index.json",
    "transformer/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "text_encoder_2/config.json",
    "tokenizer",
    "tokenizer_2",
)
"""What the folder of a pipeline holds, of that which a run reads."""


def check_inputs(config: RunConfig) -> None:
    """Check what a run reads.

    Raises:
        ValueError: If prompts, pictures or the model folder cannot be used, or the algorithm needs a gradient that a
            reward does not have.
    """
    check_rewards(config)
    read_texts(config)
    path = Path(resolve_path(config.model.path))
    # A hub id has exactly one slash and no such folder here; all else must be a folder.
    is_hub_id = not path.exists() and not path.is_absolute() and config.model.path.count("/") == 1
    missing = [] if is_hub_id else [part for part in MODEL_PARTS if not (path / part).exists()]
    if missing:
        raise ValueError(
            f"model.path: expected a folder with a FluxPipeline in the diffusers layout, got {config.model.path!r},"
            f" which has no {', '.join(missing)}; give the folder that `FluxPipeline.save_pretrained` wrote,"
            " a hub id like ORG/NAME, or small_world"
        )


def input_notes(config: RunConfig) -> list[str]:
    """What a person should know of the prompts and pictures of a run: what is left out, repeated or cut.

    Raises:
        ValueError: If one of them, or the model's tokenizers, cannot be read.
    """
    texts = read_texts(config)
    path, length = resolve_path(config.model.path), config.model.max_sequence_length
    cut = {key: cut_prompts(path, prompts, length) for key, prompts in texts.by_key.items()}
    return [*texts.notes, *(f"{key}: {each.note}" for key, found in cut.items() for each in found)]


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

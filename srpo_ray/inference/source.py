"""Models that commands sample with: those of a run's folder, or that of a config before its first update."""

import math
from collections.abc import Sequence
from pathlib import Path

from srpo_ray.config import RunConfig, load_run
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.inference.job import SamplingOptions, check_same_model, open_run
from srpo_ray.launch.preflight import check_model
from srpo_ray.models.contrast import BASE, TUNED, ContrastWeight
from srpo_ray.models.distilled import check_scales
from srpo_ray.models.families import family_of
from srpo_ray.models.family_checks import check_contrast_text, check_family
from srpo_ray.models.paths import is_adapter, resolve_path
from srpo_ray.models.prompt_length import check_text_length
from srpo_ray.models.sizes import check_sizes, stored_config
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.trained import TrainedRun, untrained


def open_source(words: Sequence[str]) -> TrainedRun:
    """Open the run, or the model of a config, that a command names.

    The folder of a config's model is `RUN_ROOT/NAME_untrained`, for outputs that the user gives no folder for. It need
    not exist.

    Args:
        words: Folder of a run; or config files and overrides.

    Raises:
        ValueError: If the folder has no run with a valid checkpoint, the config or its model cannot be used, the family
            of the model lacks something that the config sets, or the LoRA to start from does not fit.
    """
    folders = [word for word in words if Path(word).is_dir()]
    if folders == list(words[:1]) == list(words):
        return open_run(Path(folders[0]))
    if folders:
        raise ValueError(
            f"expected the folder of one run alone, or config files and overrides, got {' '.join(words)}; overrides"
            " belong to config files: name one kind"
        )
    files = [word for word in words if "=" not in word]
    missing = [file for file in files if not Path(file).exists()]
    if missing:
        raise ValueError(
            f"expected the folder of a trained run, or a config file, got {missing[0]}, which does not exist; check the"
            f" path (working folder: {Path.cwd()})"
        )
    config = with_absolute_paths(load_run(files, [word for word in words if "=" in word]))
    _check_model(config)
    return untrained(RunFolder(Path(config.run_root) / f"{config.name}_untrained"), config)


def _check_model(config: RunConfig) -> None:
    """Check the model as the start of a run does."""
    path = config.model.path
    check_model(path)
    check_family(config, family_of(path))
    check_text_length(resolve_path(path), config.model.max_sequence_length)
    if config.model.lora and config.model.lora.start_from:
        # Imports the model stack, which takes seconds.
        from srpo_ray.models.lora_start import check_lora_start

        check_lora_start(config.model)


def sampling_config(run: TrainedRun, options: SamplingOptions) -> RunConfig:
    """Apply sampling options to the config of a run, or to a config, whose sampling settings no run has checked.

    Raises:
        ValueError: As `SamplingOptions.over`; also for settings of a config itself.
    """
    config = options.over(run.config)
    if run.from_config:
        path, evaluation = config.model.path, config.evaluation
        check_scales(path, {"evaluation.guidance_scale": evaluation.guidance_scale})
        check_sizes(path, {"evaluation.resolution": config.model_at(evaluation).size}, stored_config(path))
    return config


def weight_of(run: TrainedRun, asked: ContrastWeight | None) -> ContrastWeight:
    """Weight of the tuned model in the samples of a command: the one asked for, or the strongest model that there is.

    Raises:
        ValueError: If a weight is asked for and there is no tuned model.
    """
    if asked is not None:
        check_tuned("--rl-guidance", run)
        return asked
    return TUNED if run.has_tuned else BASE


def open_contrast(run: TrainedRun, other_dir: Path | None) -> TrainedRun | None:
    """Open the run or the LoRA whose tuned model a contrast subtracts; None gives None.

    Args:
        run: The run, or the model of a config.
        other_dir: Folder of another run; or a LoRA file, or a folder with one, for the same pipeline.

    Raises:
        ValueError: If the folder has no run with a valid checkpoint, or one of another model, if the LoRA does not fit,
            or nothing is contrasted.
    """
    if other_dir is None:
        return None
    check_tuned("--contrast-with", run)
    if is_adapter(other_dir):
        # Imports the model stack, which takes seconds.
        from srpo_ray.inference.adapter import open_adapter

        return open_adapter("--contrast-with", run, other_dir)
    other = open_run(other_dir)
    check_same_model("--contrast-with", run, other)
    if other.folder.path == run.folder.path:
        raise ValueError(f"--contrast-with: expected another run, got {other_dir}; choose another, or leave it out")
    return other


def check_text_of_other(run: TrainedRun, weights: Sequence[ContrastWeight], text: float) -> None:
    """Check the scale of the prompt in the other model's text; 1 is the prompt and always passes.

    Args:
        run: The run, or the model of a config.
        weights: Weights of `--rl-guidance`.
        text: Scale, see `Contrast.text`.

    Raises:
        ValueError: If the scale is not a number, a weight uses the tuned model alone or there is none, or the text
            features of the model cannot be scaled.
    """
    if text == 1:
        return
    if not math.isfinite(text):
        raise ValueError(f"--contrast-text: expected a finite number, got {text:g}; 0 is the empty prompt")
    if not weights or any(weight.used == {1.0} for weight in weights):
        raise ValueError(
            f"--contrast-text: expected --rl-guidance other than 1 with it, got"
            f" {' '.join(weight.text for weight in weights) or 'none'}, so no other model would read that text; give a"
            " weight, such as --rl-guidance 2, or leave --contrast-text out"
        )
    check_contrast_text("--contrast-text", text, family_of(run.config.model.path))


def check_tuned(option: str, run: TrainedRun) -> None:
    """Raise ValueError for an option that needs a tuned model if there is none."""
    if not run.has_tuned:
        raise ValueError(
            f"{option}: expected the folder of a run, or a config whose model.lora.start_from is a LoRA to continue,"
            f" got a config of {run.config.model.path} alone, which has no tuned model; name a run, or leave it out"
        )

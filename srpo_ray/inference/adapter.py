"""Model of a LoRA file beside a run: the run's pipeline with the file's adapters."""

from pathlib import Path

from srpo_ray.config import apply
from srpo_ray.models.families import family_of
from srpo_ray.models.lora_files import KEY, read_lora
from srpo_ray.models.lora_start import check_lora_start
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.trained import TrainedRun, untrained


def open_adapter(option: str, run: TrainedRun, path: Path) -> TrainedRun:
    """Describe the pipeline of a run with the adapters of a LoRA, as a run before its first update.

    Args:
        option: Option of the command, for messages.
        run: The run, or the model of a config, whose pipeline, data type and text length the model has.
        path: LoRA file of diffusers, kohya or ComfyUI, or folder with one.

    Raises:
        ValueError: If the LoRA cannot be read, does not fit the model, or has adapters of several ranks.
    """
    path = path.resolve()
    try:
        layers = read_lora(str(path), family_of(run.config.model.path))
        ranks = sorted({layer.rank for layer in layers.values()})
        if len(ranks) > 1:
            listed = ", ".join(map(str, ranks))
            raise ValueError(f"expected adapters of one rank, got {path} with ranks {listed}; resize it to one rank")
        # Unset `start_mode` is `continue`: the adapters as they are, of exactly these layers.
        lora = {"rank": ranks[0], "start_from": str(path), "target_modules": sorted(layers)}
        config = apply(run.config, {"model.lora": lora, "start_from": None})
        check_lora_start(config.model)
    except ValueError as error:
        raise ValueError(f"{option}: {str(error).removeprefix(f'{KEY}: ')}") from error
    return untrained(RunFolder(path), config)

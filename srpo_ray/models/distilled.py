"""Models that were distilled to few sampler steps: their detection, and checks of runs that train them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srpo_ray.config import RunConfig
from srpo_ray.models.families import FLUX, SD3, Z_IMAGE, family_of
from srpo_ray.models.paths import pipeline_file, resolve_path


def is_distilled(path: str) -> bool:
    """Tell if a pipeline was distilled to few sampler steps.

    FLUX.2 klein and Krea 2 declare it in their `model_index.json`, where Qwen-Image-2.1-Turbo has the sigmas of its few
    steps, and FLUX.1-schnell has no input for guidance. The configs of Z-Image-Turbo are those of Z-Image, and those of
    Stable Diffusion 3.5 Large Turbo are those of Large, so only the name of the folder or repository tells; names with
    `de-turbo` are of models for many steps.

    Args:
        path: Folder or hub id of the pipeline, or `small_world`.

    Raises:
        ValueError: As `family_of`.
    """
    family, place = family_of(path), resolve_path(path)
    if family is FLUX:
        return not _read(place, "transformer/config.json").get("guidance_embeds", True)
    if family in (SD3, Z_IMAGE):
        return bool(re.search(r"(?<!de)(?<!de-)(?<!de_)turbo", _name(path), re.IGNORECASE))
    return bool(_read(place, "model_index.json").get("is_distilled", False)) or sample_sigmas(path) is not None


def sample_sigmas(path: str) -> list[float] | None:
    """Read the sigmas that a pipeline's authors fix for its steps, noisiest first and without the last 0.

    Args:
        path: Folder or hub id of the pipeline, or `small_world`.

    Returns:
        The `sample_sigmas` of `model_index.json`, as Qwen-Image-2.1-Turbo has them; None without.

    Raises:
        ValueError: If there is no such file, or they are no numbers.
    """
    given: Any = _read(resolve_path(path), "model_index.json").get("sample_sigmas")
    if given is None:
        return None
    if not isinstance(given, list) or not given or not all(isinstance(each, int | float) for each in given):
        raise ValueError(
            f"model.path: expected a list of numbers as sample_sigmas in the model_index.json of {path!r}, got"
            f" {given!r}; download it again"
        )
    return [float(each) for each in given]


def distilled_note(path: str) -> str | None:
    """Build a note for the user if a model is distilled; else None."""
    if not is_distilled(path):
        return None
    return (
        f"model.path: {path} was distilled to few sampler steps. Training moves the weights away from the distilled"
        " ones, so its images at few steps may blur or lose detail; watch them in the evaluations, keep updates few and"
        " adapters small, or train the model that it was distilled from"
    )


def check_guidance(config: RunConfig) -> None:
    """Check that a run of a distilled model asks for no classifier-free guidance.

    Raises:
        ValueError: If one of its guidance scales is not 1.
    """
    sections = {"rollout": config.rollout, "algorithm": config.algorithm, "evaluation": config.evaluation}
    scales = {f"{name}.guidance_scale": getattr(section, "guidance_scale", None) for name, section in sections.items()}
    check_scales(config.model.path, scales)


def takes_guidance(path: str) -> bool:
    """Tell if a transformer has the guidance scale as an input, because it was distilled from guided velocities.

    Args:
        path: Folder or hub id of the pipeline, or `small_world`.
    """
    if family_of(path).classifier_free:
        return False
    return bool(_read(resolve_path(path), "transformer/config.json").get("guidance_embeds", False))


def check_likelihood(config: RunConfig) -> None:
    """Check that a loss which treats errors as likelihoods has velocities of data.

    Raises:
        ValueError: If the model has the guidance scale as an input, and the loss asks it for guided velocities.
    """
    scale = getattr(config.algorithm, "guidance_scale", None)
    if not config.algorithm.needs_likelihood or scale in (None, 1) or not takes_guidance(config.model.path):
        return
    raise ValueError(
        f"expected algorithm.guidance_scale=1 with algorithm.loss=mapo and {config.model.path}, got {scale:g}; the loss"
        " takes the error for a likelihood, and guided velocities are not those of the data: set"
        " algorithm.guidance_scale=1, or choose a loss with a reference"
    )


def check_scales(path: str, scales: Mapping[str, float | None]) -> None:
    """Check that guidance scales ask for no classifier-free guidance of a distilled model.

    Args:
        path: Folder or hub id of the pipeline, or `small_world`.
        scales: Name of an option -> its guidance scale, or None if it is not set.

    Raises:
        ValueError: If the model is distilled and a scale is not 1.
    """
    wrong = {name: scale for name, scale in scales.items() if scale not in (None, 1)}
    if not wrong or not family_of(path).classifier_free or not is_distilled(path):
        return
    found = ", ".join(f"{name}={scale:g}" for name, scale in wrong.items())
    raise ValueError(
        f"expected a guidance scale of 1, which is none, with {path}, because it was distilled without classifier-free"
        f" guidance, got {found}; set {' and '.join(f'{name}=1' for name in wrong)}, or choose the model that it was"
        " distilled from"
    )


def _name(path: str) -> str:
    """Return the name of a pipeline's folder or repository, also of a snapshot in the cache of the hub."""
    parts = Path(path).parts
    return next((part for part in parts if part.startswith("models--")), parts[-1])


def _read(path: str, name: str) -> dict[str, object]:
    return json.loads(pipeline_file(path, name).read_text(encoding="utf-8"))

"""Models that were distilled to few sampler steps: their detection, and checks of runs that train them."""

import json
import re

from srpo_ray.config import RunConfig
from srpo_ray.models.families import FLUX, Z_IMAGE, family_of
from srpo_ray.models.paths import pipeline_file, resolve_path


def is_distilled(path: str) -> bool:
    """Tell if a pipeline was distilled to few sampler steps.

    FLUX.2 klein declares it in its `model_index.json`, and FLUX.1-schnell has no input for guidance. The configs of
    Z-Image-Turbo are those of Z-Image, so only its name tells; names with `de-turbo` are of models for many steps.

    Args:
        path: Folder or hub id of the pipeline, or `small_world`.

    Raises:
        ValueError: As `family_of`.
    """
    family, place = family_of(path), resolve_path(path)
    if family is FLUX:
        return not _read(place, "transformer/config.json").get("guidance_embeds", True)
    if family is Z_IMAGE:
        return bool(re.search(r"(?<!de)(?<!de-)(?<!de_)turbo", path, re.IGNORECASE))
    return bool(_read(place, "model_index.json").get("is_distilled", False))


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
    path = config.model.path
    if not family_of(path).classifier_free or not is_distilled(path):
        return
    sections = {"rollout": config.rollout, "algorithm": config.algorithm, "evaluation": config.evaluation}
    scales = {f"{name}.guidance_scale": getattr(section, "guidance_scale", None) for name, section in sections.items()}
    wrong = {key: scale for key, scale in scales.items() if scale not in (None, 1)}
    if wrong:
        found = ", ".join(f"{key}={scale:g}" for key, scale in wrong.items())
        raise ValueError(
            f"expected a guidance scale of 1, which is none, with {path}, because it was distilled without"
            f" classifier-free guidance, got {found}; set {' and '.join(f'{key}=1' for key in wrong)}, or choose the"
            " model that it was distilled from"
        )


def _read(path: str, name: str) -> dict[str, object]:
    return json.loads(pipeline_file(path, name).read_text(encoding="utf-8"))

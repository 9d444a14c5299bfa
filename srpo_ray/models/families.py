"""Supported model families as plain data, so that a look-up does not import the model stack."""

import json
from dataclasses import dataclass

from srpo_ray.models.paths import pipeline_file, resolve_path


@dataclass(frozen=True)
class Family:
    """Family of models, identified by the pipeline class in their `model_index.json`; `registry.py` maps it to code."""

    pipeline: str
    """Class of the pipeline in diffusers."""
    transformer: str
    """Class of its transformer."""
    blocks: tuple[str, ...]
    """Classes of the transformer's repeated blocks, which are compiled one by one."""
    text_encoders: int
    """Number of text encoders: `text_encoder`, `text_encoder_2`, ..., each with a tokenizer."""
    even_sigmas: bool = False
    """True if the pipeline passes even sigmas from 1 to 1/n to its scheduler; else the scheduler chooses them."""
    classifier_free: bool = False
    """True if guidance needs the features of the empty prompt (`FlowPolicy.empty_prompt`)."""
    clip_tokens: bool = False
    """True if the transformer reads the tokens of CLIP besides those of T5."""

    @property
    def guidance_texts(self) -> list[str]:
        """Texts whose features guidance needs besides the prompt's: the empty prompt, or none."""
        return [""] if self.classifier_free else []

    @property
    def tokenizers(self) -> list[str]:
        """Folders of the tokenizers; T5's is the last."""
        return ["tokenizer", *(f"tokenizer_{number}" for number in range(2, self.text_encoders + 1))]

    @property
    def text_parts(self) -> list[str]:
        """Folders of the pipeline that text features depend on."""
        return [*self.tokenizers, *(name.replace("tokenizer", "text_encoder") for name in self.tokenizers)]

    @property
    def parts(self) -> list[str]:
        """Files and folders of such a pipeline that a run reads."""
        models = [part for part in ("transformer", "vae", *self.text_parts) if part not in self.tokenizers]
        return [*(f"{model}/config.json" for model in models), *self.tokenizers]


FLUX = Family(
    pipeline="FluxPipeline",
    transformer="FluxTransformer2DModel",
    blocks=("FluxTransformerBlock", "FluxSingleTransformerBlock"),
    text_encoders=2,
    even_sigmas=True,
)
SD3 = Family(
    pipeline="StableDiffusion3Pipeline",
    transformer="SD3Transformer2DModel",
    blocks=("JointTransformerBlock",),
    text_encoders=3,
    classifier_free=True,
    clip_tokens=True,
)
FAMILIES = {family.pipeline: family for family in (FLUX, SD3)}


def family_of(path: str) -> Family:
    """Return the family of a pipeline.

    Args:
        path: Folder or hub id, or `small_world`.

    Raises:
        ValueError: If the path has no readable pipeline, or its class is not supported.
    """
    file = pipeline_file(resolve_path(path), "model_index.json")
    try:
        name = json.loads(file.read_text(encoding="utf-8")).get("_class_name")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"model.path: expected a JSON object in {file}, got {error}; save the model again") from error
    if name not in FAMILIES:
        raise ValueError(
            f"model.path: expected a pipeline of class {' or '.join(FAMILIES)}, got {name!r} in {file}; choose another"
            " model, or add an adapter for its family (docs/models.md)"
        )
    return FAMILIES[name]

"""The families of models that there is an adapter for, as plain facts: whoever asks need not load the model stack."""

import json
from dataclasses import dataclass

from srpo_ray.models.paths import pipeline_file, resolve_path


@dataclass(frozen=True)
class Family:
    """A family of models, told by the class that their `model_index.json` names; `policies.py` has its code."""

    pipeline: str
    """Class of the pipeline in diffusers."""
    transformer: str
    """Class of its transformer."""
    blocks: tuple[str, ...]
    """Classes of the transformer's repeated blocks, which are compiled one by one."""
    text_encoders: int
    """How many there are: `text_encoder`, `text_encoder_2`, ..., each with its tokenizer."""
    even_sigmas: bool = False
    """True if the pipeline gives its scheduler even sigmas from 1 to 1/n; else the scheduler chooses them itself."""
    classifier_free: bool = False
    """Whether guidance needs the features of the empty prompt (`FlowPolicy.empty_prompt`)."""

    @property
    def guidance_texts(self) -> list[str]:
        """Texts whose features guidance needs beside those of a prompt: the empty one, or none."""
        return [""] if self.classifier_free else []

    @property
    def tokenizers(self) -> list[str]:
        """Folders of the tokenizers; T5's is the last."""
        return ["tokenizer", *(f"tokenizer_{number}" for number in range(2, self.text_encoders + 1))]

    @property
    def text_parts(self) -> list[str]:
        """Folders that the features of a text depend on."""
        return [*self.tokenizers, *(name.replace("tokenizer", "text_encoder") for name in self.tokenizers)]

    @property
    def parts(self) -> list[str]:
        """What the folder of such a pipeline holds, of that which a run reads."""
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
)
FAMILIES = {family.pipeline: family for family in (FLUX, SD3)}


def family_of(path: str) -> Family:
    """The family that the pipeline at a path belongs to.

    Args:
        path: Folder or hub id, or `small_world`.

    Raises:
        ValueError: If there is no pipeline that can be read, or it is of a class without an adapter.
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

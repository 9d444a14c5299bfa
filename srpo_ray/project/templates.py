"""Templates of project folders, by name: the packaged config that each starts from, and its example prompts."""

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """Template of a project folder."""

    about: str
    """Model, method and machine."""
    config: str
    """Packaged config file that becomes `config.yaml`."""
    files: str
    """Folder of the sweep file and of the example prompts."""
    layers: tuple[tuple[str, str], ...] = ()
    """Packaged config files that are layered over it, and their names in the project."""
    gpu: str | None = None
    """GPU that `srpo-ray plan` is asked about; None for a template that needs no GPU."""
    extra: str | None = None
    """Extra of the package that the config needs."""

    @property
    def config_files(self) -> tuple[str, ...]:
        """Names of the project's config files, in the order in which they are layered."""
        return ("config.yaml", *(name for _, name in self.layers))


_SAME_GPU = (("configs/recipes/rewards_same_gpu.yaml", "rewards.yaml"),)

TEMPLATES: dict[str, Template] = {
    "small_world": Template("a tiny FLUX with tiny rewards, on CPUs", "configs/small_world.yaml", "small_world"),
    "flux_lora": Template(
        "FLUX.1-dev by LoRA on one GPU of 80 GB", "configs/recipes/flux_lora_80gb.yaml", "flux", _SAME_GPU, "A100-80GB"
    ),
    "flux_lora_48gb": Template(
        "FLUX.1-dev by LoRA on one GPU of 48 GB", "configs/recipes/flux_lora_48gb.yaml", "flux", _SAME_GPU, "L40S"
    ),
    "flux_lora_24gb": Template(
        "FLUX.1-dev by LoRA over 4-bit weights on one GPU of 24 GB",
        "configs/recipes/flux_lora_24gb.yaml",
        "flux",
        _SAME_GPU,
        "RTX4090",
        "quantization",
    ),
    "flux_full": Template(
        "all weights of FLUX.1-dev on 8 GPUs of 80 GB",
        "configs/recipes/flux_full_8x80gb.yaml",
        "flux",
        _SAME_GPU,
        "A100-80GB",
    ),
}
"""Name of a template -> the template. The first is the default."""

DEFAULT = next(iter(TEMPLATES))


def find_template(name: str) -> Template:
    """Return the template of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in TEMPLATES:
        close = difflib.get_close_matches(name, TEMPLATES, n=1)
        cure = f"did you mean {close[0]}?" if close else "choose one of them"
        raise ValueError(f"--template: expected one of {', '.join(TEMPLATES)}; got {name!r}; {cure}")
    return TEMPLATES[name]

"""Verification level of each recipe: how much of it has been run, and on what."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

Level = Literal[
    "planned", "planned, parity on a tiny config", "tiny CPU run", "GPU, random weights", "GPU, real weights"
]
"""Levels, the weakest first.

`planned`: the config loads, and `srpo-ray plan` fits it to the GPU of its name. `planned, parity on a tiny config`: a
test also compares rollouts and images of its model family with those of diffusers' pipeline, at tiny size with random
weights. `tiny CPU run`: the file has also trained the small world on a CPU, with smaller sizes and rewards in process.
`GPU, random weights`: it has trained the model at full size on the GPU of its name, with random weights. `GPU, real
weights`: the same with published weights.
"""

LEVELS: tuple[Level, ...] = get_args(Level)

_PARITY: Level = "planned, parity on a tiny config"
RECIPES: dict[str, Level] = {
    "flux_lora_24gb": _PARITY,
    "flux_lora_48gb": _PARITY,
    "flux_pairs_lora_48gb": _PARITY,
    "flux_lora_80gb": "tiny CPU run",
    "flux_lora_8x80gb": _PARITY,
    "flux_full_8x80gb": "tiny CPU run",
    "flux_full_32gpu": _PARITY,
    "sd35_medium_lora_48gb": _PARITY,
    "flux2_klein_lora_24gb": _PARITY,
    "flux2_dev_lora_80gb": _PARITY,
    "z_image_lora_48gb": _PARITY,
    "qwen_image_lora_80gb": _PARITY,
    "krea2_lora_80gb": _PARITY,
    "qwen_image21_lora_48gb": _PARITY,
    "rewards_same_gpu": "planned",
    "rewards_own_node": "planned",
}
"""Name of a file in `configs/recipes` -> its level."""


def verification(files: Sequence[str | Path]) -> tuple[str, ...]:
    """Describe the levels of the recipes among some config files.

    Args:
        files: Config files of a run.

    Returns:
        One line per recipe; none for other files.
    """
    stems = [Path(file).stem for file in files if Path(file).parent.name == "recipes"]
    return tuple(f"{stem}: {RECIPES[stem]}" for stem in stems if stem in RECIPES)

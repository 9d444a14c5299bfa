"""Verification level of each recipe: how much of it has been run, and on what."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

Level = Literal["planned", "tiny CPU run", "GPU, random weights", "GPU, real weights"]
"""Levels, the weakest first.

`planned`: the config loads, and `srpo-ray plan` fits it to the GPU of its name. `tiny CPU run`: the file has also
trained the small world on a CPU, with smaller sizes and rewards in process. `GPU, random weights`: it has trained the
model at full size on the GPU of its name, with random weights. `GPU, real weights`: the same with published weights.
"""

LEVELS: tuple[Level, ...] = get_args(Level)

RECIPES: dict[str, Level] = {
    "flux_lora_24gb": "planned",
    "flux_lora_48gb": "planned",
    "flux_lora_80gb": "tiny CPU run",
    "flux_lora_8x80gb": "planned",
    "flux_full_8x80gb": "tiny CPU run",
    "flux_full_32gpu": "planned",
    "sd35_medium_lora_48gb": "planned",
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

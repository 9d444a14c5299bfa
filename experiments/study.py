"""The study of methods and words on the small world: three comparisons, one after the other.

python experiments/study.py            # 164 runs; not yet timed as a whole
python experiments/study.py            # again after Ctrl-C or a crash: resumes where it stopped

- configs/experiments/paper_table.yaml: every method with every choice of words;
- configs/experiments/bias.yaml: how much of a reward's bias each query lets through;
- configs/experiments/past_the_turn.yaml: long runs, windows, discount, inversion and hinge.

Each has its folder and report under runs/. A single one runs by `python experiments/paper_table.py CONFIG`.
"""

import sys
from pathlib import Path

from srpo_ray.cli import main

CONFIGS = Path(__file__).parents[1] / "configs" / "experiments"
STUDIES = ("paper_table", "bias", "past_the_turn")


def run(names: tuple[str, ...]) -> int:
    """Run or resume the comparisons in order; return the exit code of the first that fails, else 0."""
    for name in names:
        folder = Path("runs") / name
        arguments = ["--resume", str(folder)] if folder.exists() else [str(CONFIGS / f"{name}.yaml")]
        if code := main(["compare", *arguments]):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(run(STUDIES))

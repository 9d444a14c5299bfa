"""The study of methods and words on the small world: three comparisons, one after the other, then their tables.

python experiments/study.py            # 204 runs, 110 minutes on 2 cores
python experiments/study.py --quick    # 23 runs, 15 minutes: one seed, fewer arms, the rates that the study chose
python experiments/study.py            # again after Ctrl-C or a crash: resumes where it stopped

- configs/experiments/paper_table.yaml: every method with every choice of words;
- configs/experiments/bias.yaml: how much of a reward's bias each query lets through;
- configs/experiments/past_the_turn.yaml: long runs, windows, discount, inversion and hinge.

Each has its folder and report under runs/. A single one runs by `python experiments/paper_table.py CONFIG`.
experiments/study_tables.py prints the tables again.
"""

import sys
from pathlib import Path

import study_tables
from study_results import STUDIES

from srpo_ray.cli import main

CONFIGS = Path(__file__).parents[1] / "configs" / "experiments"


def run(quick: bool) -> int:
    """Run or resume the comparisons in order; return the exit code of the first that fails, else 0."""
    for name in STUDIES:
        folder = Path("runs") / f"{study_tables.QUICK if quick else ''}{name}"
        config = CONFIGS / ("quick" if quick else "") / f"{name}.yaml"
        arguments = ["--resume", str(folder)] if folder.exists() else [str(config)]
        if code := main(["compare", *arguments]):
            return code
    return 0


if __name__ == "__main__":
    quick = sys.argv[1:] == ["--quick"]
    if sys.argv[1:] and not quick:
        sys.exit(f"usage: python {sys.argv[0]} [--quick]")
    if code := run(quick):
        sys.exit(code)
    study_tables.main(["runs", *sys.argv[1:]])

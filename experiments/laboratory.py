"""Laboratory of methods on the small world: one experiment per claim, at equal compute, with three seeds.

python experiments/laboratory.py                     # all experiments, one after the other; resumes what was begun
python experiments/laboratory.py methods samplers    # these experiments
python experiments/laboratory_tables.py runs         # tables of docs/laboratory.md, of what is finished

Their files are in configs/experiments/laboratory/; each begins with its question.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from laboratory_results import EXPERIMENTS, experiment_folder

from srpo_ray.cli import main as srpo_ray

CONFIGS = Path(__file__).parents[1] / "configs" / "experiments" / "laboratory"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or resume experiments in order; return the exit code of the first that fails, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(EXPERIMENTS)} (default: all)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parsed = parser.parse_args(arguments)
    unknown = [name for name in parsed.names if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"expected names among {', '.join(EXPERIMENTS)}, got {', '.join(unknown)}; correct them")
    for name in parsed.names or EXPERIMENTS:
        folder = experiment_folder(parsed.runs, name)
        begun = (folder / "experiment.yaml").exists()
        file = [str(CONFIGS / f"{name}.yaml"), f"run_root={parsed.runs}"]
        if code := srpo_ray(["compare", *(["--resume", str(folder)] if begun else file)]):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())

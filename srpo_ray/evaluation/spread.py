"""How far the untrained model's pictures differ in each reward: `python -m srpo_ray.evaluation.spread runs/NAME`.

The numbers are what `spread` of a reward model is set to, for a sum in which weights mean what they say.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import pstdev


def spreads(scores: Path) -> dict[str, float]:
    """Standard deviation over the untrained model's pictures of every score, trained and held-out.

    Args:
        scores: The `scores.jsonl` of a run.

    Returns:
        `<model>` for the plain prompt, and `<model>/relative` for the words of `evaluation.relative`, if there are any.

    Raises:
        ValueError: If there is no such file, or it does not begin with the untrained model.
    """
    if not scores.is_file():
        raise ValueError(f"expected the folder of a run with {scores.name}, got {scores.parent}; check the path")
    with scores.open(encoding="utf-8") as file:
        first = json.loads(file.readline() or "{}")
    if first.get("step") != 0:
        raise ValueError(
            f"expected the untrained model's scores in the first row of {scores}, got step {first.get('step')}; wait"
            " until the run has made its first evaluation"
        )
    names = {name: name.partition("/")[2] for name in first["scores"] if name.startswith(("reward/", "panel/"))}
    return {model: pstdev(first["scores"][name]) for name, model in names.items() if not model.startswith("total")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the spreads of a run as YAML; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m srpo_ray.evaluation.spread", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    try:
        found = spreads(parser.parse_args(arguments).run / "scores.jsonl")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for name, value in found.items():
        print(f"{name}: {{spread: {value:.4g}}}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Standard deviations of each reward's scores: `python -m srpo_ray.evaluation.reward_spread runs/NAME`.

The printed `spread` is the value for the key `spread` of a reward model. It makes the weights of the sum comparable.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev, variance


@dataclass(frozen=True)
class Spread:
    """Standard deviations of one score over the base model's images."""

    within: float
    """Over images of the same prompt: the root of the mean over prompts of each prompt's unbiased variance. An image
    gradient, and a group of images of one prompt, depend on this part only."""
    total: float
    """Over all images, including the differences between prompts, on which image gradients and groups do not depend."""


def spreads(scores: Path) -> dict[str, Spread]:
    """Compute the standard deviations of every score over the base model's images, of trained and held-out models.

    Args:
        scores: File `scores.jsonl` of a run.

    Returns:
        `<model>` for the plain prompt, and `<model>/relative` for the words of `evaluation.relative`, if it is set.

    Raises:
        ValueError: If the file does not exist, does not start with the base model, or has one image per prompt.
    """
    if not scores.is_file():
        raise ValueError(f"expected the folder of a run with {scores.name}, got {scores.parent}; check the path")
    with scores.open(encoding="utf-8") as file:
        first = json.loads(file.readline() or "{}")
    if first.get("update") != 0:
        raise ValueError(
            f"expected the base model's scores in the first row of {scores}, got update {first.get('update')}; wait"
            " for the run's first evaluation"
        )
    prompts = int(first["num_prompts"])
    models = {name.partition("/")[2]: name for name in first["scores"] if name.startswith(("reward/", "evaluator/"))}
    columns = {model: first["scores"][name] for model, name in models.items() if not model.startswith("total")}
    if any(len(values) < 2 * prompts for values in columns.values()):
        raise ValueError(
            f"expected at least two images per prompt in {scores}, got one, so there is no spread within a prompt; set"
            " evaluation.samples_per_prompt to 2 or more and evaluate again"
        )
    return {model: _spread(values, prompts) for model, values in columns.items()}


def _spread(values: Sequence[float], num_prompts: int) -> Spread:
    """Compute the spread of `values[sample * num_prompts + prompt]`."""
    within = fmean(variance(values[prompt::num_prompts]) for prompt in range(num_prompts))
    return Spread(math.sqrt(within), pstdev(values))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the spreads of a run as YAML, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m srpo_ray.evaluation.reward_spread", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    try:
        found = spreads(parser.parse_args(arguments).run / "scores.jsonl")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for name, spread in found.items():
        print(f"{name}: {{spread: {spread.within:.4g}}}  # within a prompt; over all images {spread.total:.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

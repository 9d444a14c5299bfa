"""Contrast with a run of reversed words against contrast with the base model, at equal gain of a true attribute.

python experiments/contrast.py            # train and sample what is not finished yet, then print the tables
python experiments/contrast.py --report   # tables of what is finished

For each seed, one run of SRPO is trained on the words `detailed, textured` against `flat, simple`, and one on the same
words reversed. The first one samples with growing weights of Reinforcement Learning Guidance, and with growing weights
of the contrast with the second. Prints the tables of docs/contrast.md.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from study_results import CONTENT, DETAIL, HELD_OUT, MEAN

from srpo_ray.config import RunConfig, load_run
from srpo_ray.evaluation.crossed import Estimate, mean_over
from srpo_ray.inference.draw import ROWS
from srpo_ray.inference.evaluate import evaluate_run
from srpo_ray.inference.job import SamplingOptions, open_run
from srpo_ray.launch.train import train
from srpo_ray.models.contrast import ContrastWeight
from srpo_ray.runs.folder import read_rows

SEEDS = (1, 2, 3)
DETAILED, REVERSED = "contrast_detailed_{}", "contrast_reversed_{}"
WEIGHTS = {"base model": ("1.5", "2", "3"), "reversed run": ("1.25", "1.5", "2")}
PREFIX = {"base model": "rl_guidance_", "reversed run": "contrast_"}
PROMPTS, SAMPLES = 96, 2
DIVERSITY = "image/diversity"
COLUMNS = {DETAIL: "detail", HELD_OUT: "held-out", MEAN: "mean utility", CONTENT: "content", DIVERSITY: "diversity"}

Scores = dict[str, dict[str, NDArray[np.float64]]]
"""Model -> metric -> mean over the images of each prompt `[prompts]`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="only print the tables")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parsed = parser.parse_args(arguments)
    if not parsed.report:
        for seed in SEEDS:
            make(parsed.runs, seed)
    seeds = [read(parsed.runs, seed) for seed in SEEDS]
    print(*weights_table(seeds), "", *equal_gain_table(seeds), sep="\n")


def make(runs: Path, seed: int) -> None:
    """Train both runs of a seed, and sample with all weights."""
    for name, words in ((DETAILED, "detailed"), (REVERSED, "flat")):
        train(run_config(runs, name.format(seed), words, seed))
    run, other = (runs / name.format(seed) for name in (DETAILED, REVERSED))
    for source, weights in WEIGHTS.items():
        evaluate_run(
            open_run(run),
            folder(runs, seed, source),
            options=SamplingOptions(samples_per_prompt=SAMPLES, seed=7),
            prompts="small_world:test",
            num_prompts=PROMPTS,
            rl_guidance=[ContrastWeight.parse("weight", text) for text in weights],
            contrast_with=other if source == "reversed run" else None,
        )


def run_config(runs: Path, name: str, words: str, seed: int) -> RunConfig:
    """Config of a run: that of *SRPO, detailed* of the laboratory, for one set of words."""
    return load_run(
        ["configs/small_world.yaml"],
        [
            f"name={name}",
            f"run_root={runs}",
            f"seed={seed}",
            f"algorithm.control_words={words}",
            "algorithm.noise=per_sample",
            "word_sets.flat={positive: [flat, simple], negative: [detailed, textured]}",
            "training.batch_size=16",
            "training.num_updates=60",
            "evaluation.interval=60",
            "evaluation.test=null",
        ],
    )


def folder(runs: Path, seed: int, source: str) -> Path:
    """Folder of the images of a seed that are contrasted with a model."""
    return runs / DETAILED.format(seed) / f"contrast_with_{source.replace(' ', '_')}"


def read(runs: Path, seed: int) -> Scores:
    """Read the scores of a seed.

    Raises:
        SystemExit: If they are not finished.
    """
    rows = [row for source in WEIGHTS for row in read_rows(folder(runs, seed, source) / ROWS)]
    models = list(dict.fromkeys(row["model"] for row in rows))
    if len(models) < 2 + sum(map(len, WEIGHTS.values())):
        raise SystemExit(
            f"expected the images of seed {seed} in {runs}, got {len(models)} models; run without --report"
        )
    prompts = range(PROMPTS)
    return {
        model: {
            metric: np.array(
                [
                    fmean(row[metric] for row in rows if row["model"] == model and row["prompt"] == prompt)
                    for prompt in prompts
                ]
            )
            for metric in COLUMNS
        }
        for model in models
    }


def weights_table(seeds: Sequence[Scores]) -> Iterator[str]:
    """Make rows in Markdown: change of each metric from the base model, for every weight."""
    yield "| contrast with | weight | " + " | ".join(COLUMNS.values()) + " |"
    yield "|---" * (len(COLUMNS) + 2) + "|"
    named = [("none", "1", "tuned")]
    named += [(source, text, PREFIX[source] + text) for source, weights in WEIGHTS.items() for text in weights]
    for source, text, model in named:
        cells = [
            shown(mean_over([scores[model][metric] - scores["base"][metric] for scores in seeds])) for metric in COLUMNS
        ]
        yield f"| {source} | {text} | " + " | ".join(cells) + " |"


def equal_gain_table(seeds: Sequence[Scores]) -> Iterator[str]:
    """Make rows in Markdown: changes at an equal gain of detail, and their difference."""
    gain = min(max(gains(scores, source)) for scores in seeds for source in WEIGHTS)
    found = {source: [at_gain(scores, source, gain) for scores in seeds] for source in WEIGHTS}
    yield f"| at a gain of detail of {gain:.3f} | " + " | ".join(list(COLUMNS.values())[1:]) + " |"
    yield "|---" * len(COLUMNS) + "|"
    for source, changes in found.items():
        yield line(source, {metric: [change[metric] for change in changes] for metric in COLUMNS})
    ours, theirs = found["reversed run"], found["base model"]
    gaps = {metric: [a[metric] - b[metric] for a, b in zip(ours, theirs, strict=True)] for metric in COLUMNS}
    yield line("reversed run - base model", gaps)


def line(name: str, values: Mapping[str, list[NDArray[np.float64]]]) -> str:
    """Row of the changes beside detail."""
    return f"| {name} | " + " | ".join(shown(mean_over(values[metric])) for metric in list(COLUMNS)[1:]) + " |"


def path_of(source: str) -> list[str]:
    """Models of growing weight, the tuned one first."""
    return ["tuned", *(PREFIX[source] + text for text in WEIGHTS[source])]


def gains(scores: Scores, source: str) -> list[float]:
    """Mean gain of detail of each weight, the tuned model first."""
    return [float((scores[model][DETAIL] - scores["base"][DETAIL]).mean()) for model in path_of(source)]


def at_gain(scores: Scores, source: str, gain: float) -> dict[str, NDArray[np.float64]]:
    """Change of each metric by prompt where the mean gain of detail first is `gain`, linear between two weights."""
    models, reached = path_of(source), gains(scores, source)
    index = next(i for i, (low, high) in enumerate(pairwise(reached)) if low <= gain <= high)
    share = (gain - reached[index]) / (reached[index + 1] - reached[index])
    return {
        metric: (1 - share) * scores[models[index]][metric]
        + share * scores[models[index + 1]][metric]
        - scores["base"][metric]
        for metric in COLUMNS
    }


def shown(estimate: Estimate) -> str:
    """Mean and half of the 95% interval."""
    return f"{estimate.mean:+.3f} ± {estimate.half_width:.3f}"


if __name__ == "__main__":
    main()

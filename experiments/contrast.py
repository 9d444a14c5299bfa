"""Contrast of models that learned the opposite against contrast with the base model, at equal gain of an attribute.

python experiments/contrast.py            # train and sample what is not finished yet, then print the tables
python experiments/contrast.py --pairs    # the same for the runs of `experiments/laboratory.py contrast_pairs`
python experiments/contrast.py --report   # tables of what is finished

For each seed, one run of SRPO is trained on the words `detailed, textured` against `flat, simple`, and one on the same
words reversed. The first one samples with growing weights of Reinforcement Learning Guidance, and with growing weights
of the contrast with the second. With `--pairs`, Diffusion-DPO samples with the base model and with the negative model
of NPO, and both models of CHATS sample together, with one text and with CHATS' own for the disliked one.
Prints the tables of docs/contrast.md.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from contrast_results import (
    DETAILED,
    PAIRS,
    PROMPTS,
    REVERSED,
    WORDS,
    Scores,
    Study,
    at_gain,
    change,
    folder,
    gains,
    path_of,
    read,
)
from numpy.typing import NDArray

from srpo_ray.config import RunConfig, load_run
from srpo_ray.evaluation.crossed import Estimate, mean_over
from srpo_ray.inference.evaluate import evaluate_run
from srpo_ray.inference.job import SamplingOptions, open_run
from srpo_ray.launch.train import train
from srpo_ray.models.contrast import ContrastWeight

SEEDS = (1, 2, 3)
SAMPLES = 2
"""Images of a prompt."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", action="store_true", help="contrast the runs of the laboratory's contrast_pairs")
    parser.add_argument("--report", action="store_true", help="only print the tables")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parsed = parser.parse_args(arguments)
    study = PAIRS if parsed.pairs else WORDS
    if not parsed.report:
        for seed in SEEDS:
            if study is WORDS:
                train_words(parsed.runs, seed)
            for name in study.sources:
                sample(study, parsed.runs, seed, name)
    seeds = [{name: read(study, parsed.runs, seed, name) for name in study.sources} for seed in SEEDS]
    print(*weights_table(study, seeds), "", *equal_gain_table(study, seeds), sep="\n")


def train_words(runs: Path, seed: int) -> None:
    """Train both runs of a seed."""
    for name, words in ((DETAILED, "detailed"), (REVERSED, "flat")):
        train(run_config(runs, name.format(seed), words, seed))


def sample(study: Study, runs: Path, seed: int, name: str) -> None:
    """Sample with all weights of a source, and score the images.

    Raises:
        SystemExit: If a run has not finished.
    """
    source = study.sources[name]
    for run in filter(None, (source.run, source.other)):
        if not (path := path_of(study, runs, run, seed) / "finished.json").exists():
            raise SystemExit(f"expected a finished run with {path}; run experiments/laboratory.py contrast_pairs first")
    evaluate_run(
        open_run(path_of(study, runs, source.run, seed)),
        folder(study, runs, seed, name),
        options=SamplingOptions(samples_per_prompt=SAMPLES, seed=7),
        prompts="small_world:test",
        num_prompts=PROMPTS,
        rl_guidance=[ContrastWeight.parse("weight", text) for text in source.weights],
        contrast_with=path_of(study, runs, source.other, seed) if source.other else None,
        contrast_text=source.text,
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


def weights_table(study: Study, seeds: Sequence[Mapping[str, Scores]]) -> Iterator[str]:
    """Make rows in Markdown: change of each metric from the base model, for every weight."""
    yield "| contrast with | weight | " + " | ".join(study.columns.values()) + " |"
    yield "|---" * (len(study.columns) + 2) + "|"
    for name, source in study.sources.items():
        for weight, model in zip(("1", *source.weights), source.models, strict=True):
            changes = {metric: [change(scores[name], model, metric) for scores in seeds] for metric in study.columns}
            yield f"| {name} | {weight} | " + " | ".join(shown(mean_over(each)) for each in changes.values()) + " |"


def equal_gain_table(study: Study, seeds: Sequence[Mapping[str, Scores]]) -> Iterator[str]:
    """Make rows in Markdown: changes at the largest gain of the attribute that all reach, and their differences."""
    compared = [name for name, source in study.sources.items() if source.compared]
    reached = [gains(study, scores[name], name) for scores in seeds for name in compared]
    gain, least = min(map(max, reached)), max(each[0] for each in reached)
    if gain < least:
        yield f"No gain is common to all: one goes up to {gain:+.3f}, another begins at {least:+.3f}."
        return
    found = {name: [at_gain(study, scores[name], name, gain) for scores in seeds] for name in compared}
    attribute, *sides = study.columns.values()
    yield f"| at a gain of {attribute} of {gain:.3f} | " + " | ".join(sides) + " |"
    yield "|---" * len(study.columns) + "|"
    for name, changes in found.items():
        yield line(study, name, changes)
    first, *others = found
    for name in others:
        pairs = zip(found[name], found[first], strict=True)
        gaps = [{metric: ours[metric] - theirs[metric] for metric in study.columns} for ours, theirs in pairs]
        yield line(study, f"{name} - {first}", gaps)


def line(study: Study, title: str, seeds: Sequence[Mapping[str, NDArray[np.float64]]]) -> str:
    """Row of the changes beside the attribute."""
    cells = [shown(mean_over([seed[metric] for seed in seeds])) for metric in list(study.columns)[1:]]
    return f"| {title} | " + " | ".join(cells) + " |"


def shown(estimate: Estimate) -> str:
    """Mean and half of the 95% interval."""
    return f"{estimate.mean:+.3f} ± {estimate.half_width:.3f}"


if __name__ == "__main__":
    main()

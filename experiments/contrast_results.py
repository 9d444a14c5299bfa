"""Models that sample together, their scores, and their changes at an equal gain of an attribute."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import numpy as np
from laboratory_results import experiment_folder
from numpy.typing import NDArray
from study_results import CONTENT, DETAIL, HELD_OUT, MEAN, PEOPLE, SATURATION, run_folder

from srpo_ray.inference.draw import ROWS
from srpo_ray.runs.folder import read_rows

PROMPTS = 96
"""Test prompts that are sampled."""
DIVERSITY = "image/diversity"

Scores = dict[str, dict[str, NDArray[np.float64]]]
"""Model -> metric -> mean over the images of each prompt `[prompts]`."""


@dataclass(frozen=True)
class Source:
    """Two models that sample together in each seed."""

    run: str
    """Name of the tuned run; `{}` is the seed in the names of both runs."""
    other: str | None
    """Name of the run that it is contrasted with; None for its base model."""
    weights: tuple[str, ...]
    """Weights, growing."""
    text: float = 1.0
    """Scale of the prompt in the text of the other model."""
    compared: bool = True
    """False for models that are left out of the comparison at equal gain."""

    @property
    def models(self) -> list[str]:
        """Names of the models in the rows of scores: the tuned one, then those with a weight."""
        kind, text = "contrast" if self.other else "rl_guidance", "" if self.text == 1 else f"_text_{self.text:g}"
        return ["tuned", *(f"{kind}_{weight}{text}" for weight in self.weights)]


@dataclass(frozen=True)
class Study:
    """Sources that are compared at an equal gain of an attribute."""

    sources: dict[str, Source]
    """Title of a row -> the models of its samples; the first one is that to which the others are compared."""
    columns: dict[str, str]
    """Metric -> title of its column; the first one is the attribute."""

    @property
    def attribute(self) -> str:
        """Metric whose gain is equal."""
        return next(iter(self.columns))


DETAILED, REVERSED = "contrast_detailed_{}", "contrast_reversed_{}"
WORDS = Study(
    {
        "base model": Source(DETAILED, None, ("1.5", "2", "3")),
        "reversed run": Source(DETAILED, REVERSED, ("1.25", "1.5", "2")),
    },
    {DETAIL: "detail", HELD_OUT: "held-out", MEAN: "mean utility", CONTENT: "content", DIVERSITY: "diversity"},
)
PAIRS = Study(
    {
        "Diffusion-DPO, base model": Source("Diffusion-DPO", None, ("1.5", "2", "3")),
        "Diffusion-DPO, NPO's negative model": Source("Diffusion-DPO", "NPO, negative model", ("1.25", "1.5", "2")),
        "CHATS, both models": Source("CHATS, preferred model", "CHATS, disliked model", ("1.5", "2", "3", "6")),
        "CHATS, both models and its text": Source(
            "CHATS, preferred model",
            "CHATS, disliked model",
            ("1.5", "2", "3", "6"),
            text=-0.5,
            # The attribute falls with the weight, so no gain is common to all.
            compared=False,
        ),
    },
    {
        SATURATION: "saturation",
        f"{PEOPLE}vivid": "vivid person",
        MEAN: "mean utility",
        CONTENT: "content",
        DIVERSITY: "diversity",
    },
)


def path_of(study: Study, runs: Path, name: str, seed: int) -> Path:
    """Folder of a run."""
    if study is WORDS:
        return runs / name.format(seed)
    return run_folder(experiment_folder(runs, "contrast_pairs"), name, seed).path


def folder(study: Study, runs: Path, seed: int, name: str) -> Path:
    """Folder of the images of a source."""
    words = "".join(letter if letter.isalnum() else "_" for letter in name)
    return path_of(study, runs, study.sources[name].run, seed) / f"contrast_with_{words}"


def read(study: Study, runs: Path, seed: int, name: str) -> Scores:
    """Read the scores of a source.

    Raises:
        SystemExit: If they are not finished.
    """
    path, expected = folder(study, runs, seed, name), ["base", *study.sources[name].models]
    rows = read_rows(path / ROWS)
    models = {row["model"] for row in rows}
    if missing := [model for model in expected if model not in models]:
        raise SystemExit(f"expected the images of {', '.join(missing)} in {path}; run without --report")
    return {
        model: {
            metric: np.array(
                [
                    fmean(row[metric] for row in rows if row["model"] == model and row["prompt"] == prompt)
                    for prompt in range(PROMPTS)
                ]
            )
            for metric in study.columns
        }
        for model in expected
    }


def change(scores: Scores, model: str, metric: str) -> NDArray[np.float64]:
    """Change of a metric from the base model, `[prompts]`."""
    return scores[model][metric] - scores["base"][metric]


def gains(study: Study, scores: Scores, name: str) -> list[float]:
    """Mean gain of the attribute of each weight, the tuned model first."""
    return [float(change(scores, model, study.attribute).mean()) for model in study.sources[name].models]


def at_gain(study: Study, scores: Scores, name: str, gain: float) -> dict[str, NDArray[np.float64]]:
    """Change of each metric by prompt where the mean gain first is `gain`, linear between two weights."""
    models, reached = study.sources[name].models, gains(study, scores, name)
    if gain == reached[0]:
        return {metric: change(scores, models[0], metric) for metric in study.columns}
    index = next(i for i, (low, high) in enumerate(pairwise(reached)) if low <= gain <= high)
    share = (gain - reached[index]) / (reached[index + 1] - reached[index])
    return {
        metric: (1 - share) * change(scores, models[index], metric) + share * change(scores, models[index + 1], metric)
        for metric in study.columns
    }

"""Pair file from a model's own images: samples of each prompt, ranked by the reward models of a config."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from srpo_ray.algorithms.pair_choice import PairChoice, Selection, choose_pairs, confidence_of_gap
from srpo_ray.config import RunConfig
from srpo_ray.data.prompts import read_prompts
from srpo_ray.files import write_text
from srpo_ray.inference.draw import draw_all
from srpo_ray.inference.job import (
    Model,
    Row,
    SamplingJob,
    SamplingOptions,
    check_at_least,
    check_selection,
    guided_name,
)
from srpo_ray.inference.source import open_source, sampling_config, weight_of
from srpo_ray.models.contrast import ContrastWeight
from srpo_ray.runs.trained import TrainedRun

PAIRS = "pairs.jsonl"
_SAMPLES = 8
"""Images of a prompt, if no option says otherwise."""


@dataclass(frozen=True)
class Ranked:
    """Result of a ranking."""

    file: Path
    """The pair file."""
    prompts: int
    """Number of prompts."""
    pairs: int
    """Number of pairs, at most one for each prompt."""


def rank_to_pairs(
    sources: Sequence[str],
    out: Path,
    *,
    options: SamplingOptions,
    prompts: str | None = None,
    num_prompts: int | None = None,
    selection: Selection = "best_worst",
    min_gap: float = 0.0,
    temperature: float | None = None,
    rl_guidance: ContrastWeight | None = None,
) -> Ranked:
    """Sample images of each prompt, score them with the trained reward models, and choose one pair of each prompt.

    A repeated call samples only what is missing. Held-out models do not score. The file has one JSON object a line:
    `preferred` and `other` (PNG files, relative to the file), `prompt`, and the `scores` of both by each reward model.

    Args:
        sources: Folder of a run, whose tuned model samples; or config files and overrides, whose base model does, or
            the LoRA that they continue.
        out: Output folder.
        options: Sampling options; 8 images per prompt by default.
        prompts: Prompt file; None uses the training prompts.
        num_prompts: Number of prompts to use, from the first; None uses all.
        selection: Rule of the choice, see `choose_pairs`.
        min_gap: Least difference of the weighted sums of the rewards, at least 0.
        temperature: T above 0 writes the `confidence` tanh(d / (2 T)) of a pair whose weighted sums differ by d; None
            writes none.
        rl_guidance: Weight of Reinforcement Learning Guidance; None samples with the tuned model, if there is one.

    Raises:
        ValueError: If an input cannot be used, or no prompt has a pair.
        RunFailedError: If sampling or scoring fails.
        CommandInterruptedError: If Ctrl-C stops it.
    """
    check_selection(selection, min_gap, temperature)
    check_at_least("--num-prompts", num_prompts, 1)
    check_at_least("--samples-per-prompt", options.samples_per_prompt, 2)
    run = open_source(sources)
    weight = weight_of(run, rl_guidance)
    config = _scored_by_training(replace(options, samples_per_prompt=options.samples_per_prompt or _SAMPLES), run)
    key = "--prompts" if prompts else "data.prompts"
    texts = read_prompts(prompts or config.data.prompts, key).rows.first(num_prompts)
    models = (Model(guided_name(weight), run, weight),)
    job = SamplingJob.of_rows(config, models, texts, out.resolve(), scored=True, truth=False)
    rows = draw_all(job, options.num_workers, options.address)
    pairs = _pairs(job, rows, selection, min_gap, temperature)
    if not pairs:
        raise ValueError(
            f"expected images of a prompt that {selection} tells apart by at least {min_gap:g}, got none in"
            f" {len(texts)} prompts; raise --samples-per-prompt, or lower --min-gap"
        )
    file = job.folder / PAIRS
    write_text(file, "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs))
    return Ranked(file, len(texts), len(pairs))


def _scored_by_training(options: SamplingOptions, run: TrainedRun) -> RunConfig:
    """Apply the options; only the reward models of the training score."""
    config = sampling_config(run, options)
    if not config.rewards.models:
        raise ValueError("rewards.models: expected models that rank the images, got none; name at least one")
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"held_out": ()})})


def _pairs(
    job: SamplingJob, rows: Sequence[Row], selection: Selection, min_gap: float, temperature: float | None
) -> list[dict[str, object]]:
    """Build the lines of the file, by prompt."""
    weights: Mapping[str, float] = job.config.rewards.factors
    names, model, found = list(weights), job.models[0].name, {(row["prompt"], row["sample"]): row for row in rows}
    scores = torch.tensor(
        [
            [[found[prompt, sample][f"reward/{name}"] for name in names] for sample in job.samples]
            for prompt in range(len(job.prompts))
        ],
        dtype=torch.float64,
    )
    factors = torch.tensor([weights[name] for name in names], dtype=torch.float64)
    choice: PairChoice = choose_pairs(scores, factors, selection, min_gap)
    lines: list[dict[str, object]] = []
    for prompt in choice.valid.nonzero().flatten().tolist():
        chosen = [int(indices[prompt]) for indices in (choice.preferred, choice.other)]
        files = [job.image(prompt, sample, model).relative_to(job.folder).as_posix() for sample in chosen]
        both = {name: scores[prompt, chosen, index].tolist() for index, name in enumerate(names)}
        row: dict[str, object] = {"preferred": files[0], "other": files[1], "prompt": job.prompts[prompt]}
        row |= confidence_column(scores[prompt, chosen] @ factors, temperature)
        lines.append(row | {"scores": both})
    return lines


def confidence_column(sums: Tensor, temperature: float | None) -> dict[str, float]:
    """Build the column `confidence` of a pair; none without a temperature.

    Args:
        sums: Weighted sums of the rewards of the preferred and the other image `[2]`.
        temperature: T of `confidence_of_gap`.
    """
    if temperature is None:
        return {}
    return {"confidence": confidence_of_gap(sums[:1] - sums[1:], temperature).item()}

"""Categories of the prompts of an evaluation: tags of question rewards, and tasks by the truth of the small world."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srpo_ray.evaluation.categories import CategoryScores
from srpo_ray.evaluation.paired import Values
from srpo_ray.inference.job import SamplingJob

TRUTH = "truth/geneval"
"""Metric of the tasks of GenEval by the true content of the small world: 1 for a correct image, else 0."""
Scores = Mapping[str, Mapping[str, Values]]
"""Metric -> model -> `[prompts][samples]`."""


def category_scores(job: SamplingJob, scores: Scores) -> list[CategoryScores]:
    """Group scores of an evaluation by the categories of its prompts; empty if no prompt has one."""
    tagged = [
        CategoryScores(metric, prompts, _rows(prompts, scores[metric]))
        for metric, prompts in _tagged(job).items()
        if metric in scores
    ]
    return tagged + ([_by_truth(job)] if job.truth else [])


def _tagged(job: SamplingJob) -> dict[str, dict[str, list[int]]]:
    """Metric of each question reward whose file has tags -> tag -> indices of the prompts."""
    from srpo_ray.rewards.served.questions import read_tags

    found: dict[str, dict[str, list[int]]] = {}
    for part, models in (("reward", job.config.rewards.models), ("evaluator", job.config.evaluation.held_out)):
        for model in models:
            if model.type == "questions":
                tags = read_tags(model.questions)
                found[f"{part}/{model.name}"] = _groups([tags.get(prompt) for prompt in job.prompts])
    return {metric: groups for metric, groups in found.items() if groups}


def _groups(names: Iterable[str | None]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        if name is not None:
            groups.setdefault(name, []).append(index)
    return groups


def _rows(groups: Mapping[str, Sequence[int]], columns: Mapping[str, Values]) -> dict[str, dict[str, Values]]:
    return {
        category: {model: [values[prompt] for prompt in prompts] for model, values in columns.items()}
        for category, prompts in groups.items()
    }


def _by_truth(job: SamplingJob) -> CategoryScores:
    """Judge the images of the job's folder by the tasks of their prompts."""
    from srpo_ray.small_world.categories import judge_tasks, tasks_of

    groups: dict[str, list[int]] = {}
    for index, prompt in enumerate(job.prompts):
        for task in tasks_of(prompt):
            groups.setdefault(task, []).append(index)
    count = len(job.samples)
    judged = {
        model.name: [
            judge_tasks(_images(job, index, model.name), [prompt] * count) for index, prompt in enumerate(job.prompts)
        ]
        for model in job.models
    }
    values = {
        task: {
            model: [[float(image[task]) for image in images[prompt]] for prompt in prompts]
            for model, images in judged.items()
        }
        for task, prompts in groups.items()
    }
    return CategoryScores(TRUTH, groups, values)


def _images(job: SamplingJob, prompt: int, model: str) -> Tensor:
    """Read the images of a prompt from the job's folder, `[samples, 3, H, W]` in [0, 1]."""
    arrays = [np.asarray(Image.open(job.image(prompt, sample, model)).convert("RGB")) for sample in job.samples]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255

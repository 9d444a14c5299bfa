"""Parts that the reports of one evaluated model and of several share: rows of images, settings and counts."""

from collections.abc import Callable, Mapping

from srpo_ray.evaluation.paired import PairedEvaluation
from srpo_ray.reports.report import Column, Facts, Row, Table

ImageName = Callable[[int, int, str], str]
"""(prompt, sample, model) -> the file of its image."""


def rows_table(evaluation: PairedEvaluation, image_name: ImageName) -> Table:
    """One row per prompt, sample and model: what was drawn, where it is, and every metric."""
    texts = ["prompt", *["conditioning"] * evaluation.rewritten]
    keys = ["prompt_index", *texts, "sample", "model", "image", *evaluation.scores]
    rows = []
    for index, prompt in enumerate(evaluation.prompts):
        for sample in range(evaluation.num_samples):
            for model in evaluation.models:
                own = [evaluation.conditioning[index]] if evaluation.rewritten else []
                drawn = (index, prompt, *own, sample, model, image_name(index, sample, model))
                scores = (columns[model][index][sample] for columns in evaluation.scores.values())
                rows.append(Row(dict(zip(keys, (*drawn, *scores), strict=True))))
    return Table([Column(key) for key in keys], rows, head="prompt_index")


def settings_facts(evaluation: PairedEvaluation) -> Facts:
    return Facts([(name, _setting_text(value)) for name, value in evaluation.settings.items()])


def _setting_text(value: object) -> str:
    """A setting for people: `tuned (run runs/x; step 40)`, `a, b`."""
    if isinstance(value, Mapping):
        nested = [(name, _setting_text(item), isinstance(item, Mapping)) for name, item in value.items()]
        return "; ".join(f"{name} ({text})" if several else f"{name} {text}" for name, text, several in nested)
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def counted(evaluation: PairedEvaluation) -> str:
    prompts, samples = len(evaluation.prompts), evaluation.num_samples
    return f"{prompts} prompt{'s' * (prompts > 1)} x {samples} sample{'s' * (samples > 1)}"

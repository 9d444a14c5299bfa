"""Scores of a run prompt by prompt, before and after training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

Source = Literal["validation", "test"]


@dataclass(frozen=True)
class ImageScores:
    """Scores of one run for the base model and for the tuned model, on the same prompts and noise."""

    baseline: Mapping[str, Sequence[float]]
    """Metric -> value of the base model for each prompt, the mean over the prompt's images."""
    tuned: Mapping[str, Sequence[float]]
    """Metric -> value of the tuned model for each prompt, in the same order."""
    num_prompts: int
    source: Source
    """`validation`: prompts by which settings are chosen; `test`: prompts that choose nothing."""
    update: int
    """Updates made by the tuned model."""

    @classmethod
    def of(cls, baseline: Mapping[str, Any], tuned: Mapping[str, Any], source: Source) -> "ImageScores | None":
        """Average two rows of `scores.jsonl` over the images of each prompt.

        Args:
            baseline: Row of the base model: `update`, `num_prompts`, and `scores`, which has one value per image,
                image = sample * num_prompts + prompt.
            tuned: Row of the tuned model.
            source: Set of the prompts.

        Returns:
            The metrics that both rows have with finite values; None if the rows are of different prompts.
        """
        prompts = int(baseline["num_prompts"])
        if int(tuned["num_prompts"]) != prompts:
            return None
        before, after = (_by_prompt(row["scores"], prompts) for row in (baseline, tuned))
        names = [name for name in before if name in after]
        return cls(
            {name: before[name] for name in names},
            {name: after[name] for name in names},
            prompts,
            source,
            int(tuned["update"]),
        )


def _by_prompt(scores: Mapping[str, Sequence[float]], prompts: int) -> dict[str, list[float]]:
    """Average each metric over the images of a prompt, without metrics that have missing or non-finite values."""
    return {
        name: [fmean(values[prompt::prompts]) for prompt in range(prompts)]
        for name, values in scores.items()
        if values and len(values) % prompts == 0 and all(math.isfinite(value) for value in values)
    }

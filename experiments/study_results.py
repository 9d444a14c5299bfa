"""Runs of the study of methods and words as results, and the comparisons that its tables and tests share."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from srpo_ray.config.base import folder_name
from srpo_ray.evaluation.crossed import Estimate, difference_by_seed, mean_over
from srpo_ray.evaluation.equal_gain import change_at
from srpo_ray.evaluation.results import Arm, Results, TrialRow
from srpo_ray.runs.folder import RunFolder, read_rows
from srpo_ray.search.folder import load_experiment_folder
from srpo_ray.search.selection import baseline_row, read_row

HELD_OUT, CONTENT = "evaluator/held_out", "truth/content_accuracy"
DETAIL, SATURATION = "truth/detail", "truth/saturation"
BRIGHTNESS, VIGNETTE = "truth/brightness", "truth/vignette"
PEOPLE, CHOOSERS = "truth/utility/test/", "truth/utility/validation/"
MEAN = f"{PEOPLE}mean"
KINDS = ("detail", "natural", "light", "vivid")
COLUMNS = {
    HELD_OUT: "held-out",
    DETAIL: "detail",
    SATURATION: "saturation",
    BRIGHTNESS: "brightness",
    VIGNETTE: "vignette",
    CONTENT: "content",
    "image/diversity": "diversity",
    MEAN: "mean utility",
    **{f"{PEOPLE}{kind}": f"{kind} person" for kind in KINDS},
}
"""Metric -> title of its column."""
STUDIES = ("paper_table", "bias", "past_the_turn")
EQUAL_GAINS = {"bias": (BRIGHTNESS, 0.05), "past_the_turn": (DETAIL, 0.15)}
"""Study -> metric and the gain of it at which side effects are compared, the same for all arms."""


def read_results(folder: Path) -> Results:
    """Read the arms of an experiment from the folders of their runs. An arm without a finished run is left out.

    Raises:
        ValueError: If there is no experiment in the folder.
    """
    config, _ = load_experiment_folder(folder)
    arms = [
        Arm(part.name, "ablation" if part in config.ablations else "method", {}, rows)
        for part in (*config.arms, *config.ablations)
        if (rows := list(_finished(folder, part.name, config.seeds_of(part))))
    ]
    base = baseline_row([row for arm in arms for row in arm.rows])
    return Results(config.name, config.objective, config.mode, "", "", None, "", config.reference.name, base, arms)


def _finished(folder: Path, name: str, seeds: Sequence[int]) -> Iterator[TrialRow]:
    for seed in seeds:
        run = run_folder(folder, name, seed)
        if run.finished.exists():
            yield read_row(run, "repeat", name, {}, seed, None)


def run_folder(folder: Path, name: str, seed: int) -> RunFolder:
    """Folder of the run of an arm with a seed."""
    return RunFolder(folder / "trials" / f"{folder_name(name)}_seed_{seed}")


def trial_folder(folder: Path, name: str, index: int) -> RunFolder:
    """Folder of a trial of an arm's grid."""
    return RunFolder(folder / "trials" / f"{folder_name(name)}_trial_{index}")


def at_equal_gain(
    results: Results, name: str, other: str | None, metric: str, amount: float, effect: str
) -> Estimate | None:
    """Estimate the change of a side effect at a gain of a metric.

    Args:
        results: The study.
        name: An arm.
        other: Arm whose change is subtracted; None subtracts nothing.
        metric: Metric of the gain.
        amount: The gain.
        effect: Metric of the side effect.

    Returns:
        None if a run of the arms never gains as much.
    """
    changes = []
    for arm in (results.arm(each) for each in (name, other) if each is not None):
        found = {row.seed: change_at(results, row, metric, effect, amount) for row in arm.ended}
        changes.append({seed: [change] for seed, change in found.items() if change is not None})
        if len(changes[-1]) < len(arm.ended):
            return None
    return difference_by_seed(changes[0], changes[1]) if other else mean_over([*changes[0].values()])


def gain_at_best_stop(folders: Sequence[RunFolder], kind: str) -> Estimate | None:
    """Estimate a person's gain if somebody of the same kind had chosen the update at which each run ends.

    The validation prompts are divided in two. On one half, the validation person of the kind chooses the update with
    the highest mean utility, the base model's included. On the other half, the utility of the test person is counted.
    Then the halves change places.

    Args:
        folders: Runs of one arm with different seeds.
        kind: Kind of the people, such as `light`.

    Returns:
        None if a run has no scores for these people.
    """
    gains = []
    for folder in folders:
        rows = read_rows(folder.scores)
        values = [[_by_prompt(row, f"{group}{kind}") for row in rows] for group in (CHOOSERS, PEOPLE)]
        if not rows or any(not each for group in values for each in group):
            return None
        gains.append(cross_fitted_gains(*(np.array(group) for group in values)))
    return mean_over(gains) if gains else None


def cross_fitted_gains(chooser: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Compute the gains of each prompt at the row chosen on the other half of the prompts.

    Args:
        chooser: Values `[rows, prompts]` that choose a row by their mean.
        judged: Values `[rows, prompts]` whose gains over row 0 are counted.
    """
    gains = np.empty(judged.shape[1])
    even = np.arange(judged.shape[1]) % 2 == 0
    for half in (even, ~even):
        best = int(chooser[:, ~half].mean(1).argmax())
        gains[half] = (judged[best] - judged[0])[half]
    return gains


def _by_prompt(row: Mapping[str, Any], metric: str) -> list[float]:
    values, prompts = row["scores"].get(metric, []), int(row["num_prompts"])
    return [fmean(values[prompt::prompts]) for prompt in range(prompts)] if values else []

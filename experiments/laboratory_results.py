"""Runs of the laboratory as results, and the comparisons that its tables share."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from study_results import read_results

from srpo_ray.config import load_run
from srpo_ray.evaluation.costs import Passage, arm_passage
from srpo_ray.evaluation.crossed import Estimate, mean_over
from srpo_ray.evaluation.results import Results
from srpo_ray.runs.folder import RunFolder, read_rows

VARIANTS = ("reward_gradients", "other_losses", "policy_gradients")
"""Experiments with further methods."""
PREFERENCES = (
    "pairs",
    "online_pairs",
    "caption_pairs",
    "caption_shapes",
    "pair_noise",
    "pair_points",
    "step_pairs",
    "contrast_pairs",
    "biased_pairs",
    "few_steps",
)
"""Experiments on preferences."""
EXPERIMENTS = ("methods", *VARIANTS, "samplers", "estimators", "hacking", "common_text", "distribution", *PREFERENCES)
"""Files in configs/experiments/laboratory/, in the order in which they run."""
SMALL_WORLD = ("methods", *VARIANTS, "samplers", "estimators")
"""Experiments with the same base config, evaluation and seeds, whose arms compare with each other."""
PREFIX = "laboratory_"
"""Beginning of the names of the experiments."""
BRIGHTNESS = "truth/brightness"
DISPLACEMENT = ("gain/preferred", "preference/accuracy")
"""Metrics of an update: gain of preferred images over the reference, and share of pairs with a right margin."""


def experiment_folder(runs: Path, name: str) -> Path:
    """Folder of an experiment of the laboratory."""
    return runs / f"{PREFIX}{name}"


def begun(runs: Path, names: Sequence[str] = EXPERIMENTS) -> dict[str, Path]:
    """Name -> folder of the experiments that have at least one finished run with a reported seed."""
    folders = {name: experiment_folder(runs, name) for name in names}
    return {
        name: folder
        for name, folder in folders.items()
        if (folder / "experiment.yaml").exists() and any(folder.glob("trials/*_seed_*/finished.json"))
    }


def read_together(folders: Sequence[Path]) -> Results:
    """Read the arms of several experiments as one, with the baseline of the first."""
    first, *others = [read_results(folder) for folder in folders]
    return replace(first, arms=[*first.arms, *(arm for results in others for arm in results.arms)])


def rates(folder: Path, arm_folder: str, objective: str) -> Iterator[tuple[float, float, float]]:
    """Learning rate, change of the objective and of content accuracy of each finished trial, by rate."""
    found = []
    for trial in sorted(folder.glob(f"trials/{arm_folder}_trial_*")):
        if (trial / "finished.json").exists():
            first, *_, last = read_rows(trial / "evaluations.jsonl")
            changes = (last[name] - first[name] for name in (objective, "truth/content_accuracy"))
            found.append((_rate(trial), *changes))
    yield from sorted(found)


def displacement(folder: Path, arm_folder: str) -> Iterator[tuple[float, float, float]]:
    """Learning rate, gain of preferred images and accuracy of the margin of each finished trial, by rate.

    Both are means over the last quarter of the updates, without those that had no pair. Trials without both metrics, as
    without a reference, are left out.
    """
    found = []
    for trial in sorted(folder.glob(f"trials/{arm_folder}_trial_*")):
        if (trial / "finished.json").exists():
            rows = read_rows(trial / "updates.jsonl")
            last = [row for row in rows[-(len(rows) // 4) :] if all(name in row for name in DISPLACEMENT)]
            if last:
                means = (fmean(row[name] for row in last) for name in DISPLACEMENT)
                found.append((_rate(trial), *means))
    yield from sorted(found)


def _rate(trial: Path) -> float:
    return load_run([RunFolder(trial).config]).training.optimizer.lr


def end_score(results: Results, name: str) -> float | None:
    """Mean held-out score of an arm's runs at their last evaluation, on the validation prompts."""
    found = results.arm(name).over_seeds(results.objective)
    return None if found is None else found.mean


def cost_of(results: Results, name: str, target: float) -> Passage | None:
    """Velocity evaluations until each run of an arm first had a held-out score."""
    return arm_passage(results, results.arm(name), target)


def bright_share(folder: Path, arm_folder: str, seeds: Sequence[int]) -> tuple[Estimate, Estimate]:
    """Share of images whose true brightness is above the middle of its scale, before training and at its end."""
    shares = []
    for seed in seeds:
        first, *_, last = read_rows(folder / "trials" / f"{arm_folder}_seed_{seed}" / "scores.jsonl")
        shares.append([_above_middle(row["scores"][BRIGHTNESS], row["num_prompts"]) for row in (first, last)])
    before, after = zip(*shares, strict=True)
    return mean_over(before), mean_over(after)


def _above_middle(values: Sequence[float], prompts: int) -> list[float]:
    """Share of bright images of each prompt."""
    samples = len(values) // prompts
    return [sum(value > 0.5 for value in values[prompt::prompts]) / samples for prompt in range(prompts)]

"""Warnings about a run, from its rows and events: problems that did not stop it."""

from collections.abc import Mapping, Sequence

from srpo_ray.config import load_run
from srpo_ray.config.algorithms.base import AlgorithmSection
from srpo_ray.evaluation.reward_hacking import HackingSign, sign_texts
from srpo_ray.runs.folder import CHECKPOINT_DAMAGED, CHECKPOINT_FAILED, RunFolder, read_rows

GAIN, MARGIN = "gain/preferred", "preference/margin"
"""Metrics of learning from preferences: gain of preferred images over the reference, and its lead over others."""
WITHOUT_PAIR = "preference/without_pair"
"""Metric of learning from sampled images: share of the prompts of which no two images make a pair."""


def warnings(folder: RunFolder) -> list[str]:
    """List all warnings for the end of a run, each with the run's name; empty for a run without problems."""
    signs = [f"{folder.path.name}: {message}" for message in sign_texts(read_signs(folder))]
    if signs and folder.stopped_by_hacking:
        model = f"the checkpoint of update {folder.best_update}" if folder.best_update else "the base model"
        signs.append(
            f"{folder.path.name}: stopped by reward-hacking detection; best was {model}, which `srpo-ray sample` uses"
        )
    return [*update_warnings(folder), *problems(folder), *signs]


def update_warnings(folder: RunFolder) -> list[str]:
    """List what is wrong with the updates of a run so far, each with the run's name."""
    return [each for each in (idle_warning(folder), displacement_warning(folder)) if each]


def problems(folder: RunFolder) -> list[str]:
    """List checkpoints that could not be written or read, each with the run's name."""
    events = (CHECKPOINT_FAILED, CHECKPOINT_DAMAGED)
    failed = [row["message"] for row in read_rows(folder.events) if row["event"] in events]
    return [f"{folder.path.name}: {message}" for message in failed]


def idle_warning(folder: RunFolder) -> str | None:
    """Return a warning if updates had a zero gradient, or None.

    Args:
        folder: Folder of the run.

    Raises:
        ValueError: If the config in the folder is damaged.
    """
    rows = read_rows(folder.updates)
    idle = [row for row in rows if row["update/gradient_norm"] == 0]
    if not idle:
        return None
    causes = _idle_causes(load_run([folder.config]).algorithm, idle) if folder.config.exists() else []
    cause = "".join(f"; {text}" for text in causes)
    count = f"{len(idle)} of {len(rows)} updates"
    return f"{folder.path.name}: the gradient was exactly zero in {count}, so they changed nothing{cause}"


def _idle_causes(algorithm: AlgorithmSection, idle: Sequence[Mapping[str, float]]) -> list[str]:
    """List what may have made a gradient zero, with the cure, by the settings that the algorithm has.

    Args:
        algorithm: Section `algorithm` of the run.
        idle: Rows of the updates without gradient.
    """
    causes: list[str] = []
    refused = sum(row.get(WITHOUT_PAIR) == 1 for row in idle)
    if refused:
        causes.append(
            f"in {refused} of them no two images of a prompt made a pair: lower algorithm.min_gap, or change"
            " algorithm.select"
        )
    if getattr(algorithm, "hinge", None) is not None:
        causes.append(
            "with a hinge this means that every reward was above algorithm.hinge: raise it above the rewards' range"
            " (a relative reward is a difference of scores near 0, a plain or guided one is a score)"
        )
    if getattr(algorithm, "loss", None) == "hinge" and refused < len(idle):
        causes.append("with the loss hinge every margin was above algorithm.margin: raise it")
    return causes


def displacement_warning(folder: RunFolder) -> str | None:
    """Return a warning if the model predicts preferred images worse than its reference at the end, or None.

    A margin of preference can grow while both sides get worse, as long as the other one does so faster.

    Args:
        folder: Folder of the run.
    """
    rows = [row for row in read_rows(folder.updates) if GAIN in row and MARGIN in row]
    size = len(rows) // 4
    if not size:
        return None
    first, last = rows[:size], rows[-size:]
    gain, margins = _mean(last, GAIN), (_mean(first, MARGIN), _mean(last, MARGIN))
    if gain >= 0 or margins[1] <= margins[0]:
        return None
    return (
        f"{folder.path.name}: preferred images became less likely while the margin grew: over the last {size} updates"
        f" {GAIN} is {gain:.3g}, and {MARGIN} went from {margins[0]:.3g} to {margins[1]:.3g}; set algorithm.safeguard,"
        " add algorithm.sft, lower algorithm.beta or training.optimizer.lr, or train for fewer updates"
    )


def _mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def read_signs(folder: RunFolder) -> list[HackingSign]:
    """Read all signs of reward hacking of a run, in order."""
    return [HackingSign(**row) for row in read_rows(folder.hacking)]

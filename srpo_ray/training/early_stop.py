"""Reward-hacking detection in a run: the decision to stop, and the checkpoint that is kept."""

import math
from dataclasses import asdict, dataclass

from srpo_ray.config import RunConfig
from srpo_ray.evaluation.reward_hacking import HackingSign, Scored, best_evaluation, find_signs
from srpo_ray.runs.collectives import from_worker_0
from srpo_ray.runs.folder import RunFolder, append_row, drop_rows_after, read_rows


@dataclass(frozen=True)
class Decision:
    """Outcome of reward-hacking detection after an evaluation."""

    signs: tuple[HackingSign, ...] = ()
    """Signs of reward hacking in the latest evaluation."""
    best_update: int | None = None
    """Updates made at the best evaluation so far, whose checkpoint is kept; None without a held-out model."""
    saves_best: bool = False
    """True if a new best evaluation gets a checkpoint even when none is due."""
    stop: bool = False
    """True if the run ends at this evaluation."""


def check_run(folder: RunFolder, config: RunConfig) -> Decision:
    """Look for signs of reward hacking in the latest evaluation of a run, and write them to `hacking.jsonl`."""
    history = [Scored(**row) for row in read_rows(folder.scores)]
    if not history:
        return Decision()
    hacking, held_out = config.evaluation.hacking, [f"evaluator/{model.name}" for model in config.evaluation.held_out]
    signs = tuple(find_signs(history, held_out, trained_reward(config), hacking, planned_looks(config)))
    drop_rows_after(folder.hacking, history[-1].update - 1)
    for found in signs:
        append_row(folder.hacking, asdict(found))
    best = best_evaluation(history, held_out).update if held_out else None
    stops = hacking.action == "stop"
    return Decision(signs, best, saves_best=stops, stop=stops and bool(signs))


def agreed_decision(folder: RunFolder, config: RunConfig) -> Decision:
    """Run `check_run` on worker 0 and broadcast its decision, so that all workers stop, or save, at the same update."""
    return from_worker_0(lambda: check_run(folder, config))


def planned_looks(config: RunConfig) -> int:
    """Count the evaluations that a run makes after the baseline: one per interval, and one after the last update."""
    return math.ceil(config.training.num_updates / config.evaluation.interval)


def trained_reward(config: RunConfig) -> str:
    """Name the evaluation metric of the reward that the run is trained on.

    A run with a relative reward raises the difference of its control words. Its plain score may fall meanwhile.
    """
    return "reward/total/trained" if config.trained_words else "reward/total"

"""Decisions from a run's evaluations: the best one, whose checkpoint is kept, and the stop for reward hacking."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from srpo_ray.config import RunConfig
from srpo_ray.evaluation.reward_hacking import HackingSign, Scored, find_signs, ranked_by_held_out
from srpo_ray.runs.collectives import from_worker_0
from srpo_ray.runs.folder import RunFolder, append_row, drop_rows_after, read_rows


@dataclass(frozen=True)
class Decision:
    """Decision after an evaluation."""

    signs: tuple[HackingSign, ...] = ()
    """Signs of reward hacking in the latest evaluation."""
    ranking: tuple[int, ...] = ()
    """Updates made at the evaluations so far, the best first; empty if nothing ranks them."""
    saves_best: bool = False
    """True if a new best evaluation gets a checkpoint even when none is due."""
    stop: bool = False
    """True if the run ends at this evaluation."""

    @property
    def best_update(self) -> int | None:
        """Updates made at the best evaluation so far, whose checkpoint is kept; None if nothing ranks evaluations."""
        return self.ranking[0] if self.ranking else None


def check_run(folder: RunFolder, config: RunConfig) -> Decision:
    """Look for signs of reward hacking in the latest evaluation of a run, and write them to `hacking.jsonl`.

    Raises:
        ValueError: If the evaluations lack the metric of `evaluation.objective`.
    """
    history = [Scored(**row) for row in read_rows(folder.scores)]
    if not history:
        return Decision()
    hacking, held_out = config.evaluation.hacking, [f"evaluator/{model.name}" for model in config.evaluation.held_out]
    signs = tuple(find_signs(history, held_out, trained_reward(config), hacking, planned_looks(config)))
    drop_rows_after(folder.hacking, history[-1].update - 1)
    for found in signs:
        append_row(folder.hacking, asdict(found))
    stops = hacking.action == "stop"
    saves_best = stops or config.evaluation.choose == "best"
    return Decision(signs, ranked_updates(history, config), saves_best, stop=stops and bool(signs))


def ranked_updates(history: Sequence[Scored], config: RunConfig) -> tuple[int, ...]:
    """Updates of the evaluations, the best first and the earliest of equals first.

    Evaluations are ranked by the objective with `evaluation.choose: best`, else by all held-out scores together.

    Raises:
        ValueError: If an evaluation lacks the objective.
    """
    evaluation, objective = config.evaluation, config.evaluation.chosen_by
    if objective is None:
        held_out = [f"evaluator/{model.name}" for model in evaluation.held_out]
        ranked = ranked_by_held_out(history, held_out) if held_out else []
    elif all(objective in each.scores for each in history):
        ranked = sorted(history, key=lambda each: _ordered(each.means[objective]), reverse=True)
    else:
        raise ValueError(
            f"evaluation.objective: expected a metric of the evaluations ({', '.join(sorted(history[0].scores))}), got"
            f" {objective!r}; choose one of them"
        )
    return tuple(each.update for each in ranked)


def _ordered(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


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

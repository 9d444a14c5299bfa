"""The hacking alarm in a run: what it reads, where it rings, and which checkpoint it keeps."""

import math
from dataclasses import asdict, dataclass

from srpo_ray.config import RunConfig
from srpo_ray.evaluation.alarm import Alarm, Scored, best_evaluation, find_alarms
from srpo_ray.training.agreement import from_worker_0
from srpo_ray.training.run_folder import RunFolder, append_row, drop_rows_after, read_rows


@dataclass(frozen=True)
class Verdict:
    """What the evaluations so far say."""

    alarms: tuple[Alarm, ...] = ()
    """Alarms of the last evaluation."""
    best_step: int | None = None
    """Updates made at the best evaluation so far, whose checkpoint is kept; None if nothing tells which is best."""
    saves_best: bool = False
    """Whether a new best evaluation is given a checkpoint, be it due or not."""
    stop: bool = False
    """Whether the run ends here."""


def judge_run(folder: RunFolder, config: RunConfig) -> Verdict:
    """Judge the last evaluation in a run's folder, and note its alarms in `alarms.jsonl`."""
    history = [Scored(**row) for row in read_rows(folder.scores)]
    if not history:
        return Verdict()
    alarm, held_out = config.evaluation.alarm, [f"panel/{model.name}" for model in config.evaluation.held_out]
    alarms = tuple(find_alarms(history, held_out, trained_reward(config), alarm, planned_looks(config)))
    drop_rows_after(folder.alarms, history[-1].step - 1)
    for found in alarms:
        append_row(folder.alarms, asdict(found))
    best = best_evaluation(history, held_out).step if held_out else None
    stops = alarm.action == "stop"
    return Verdict(alarms, best, saves_best=stops, stop=stops and bool(alarms))


def agreed_verdict(folder: RunFolder, config: RunConfig) -> Verdict:
    """Worker 0's `judge_run`, on every worker: all must stop, or save, at the same update."""
    return from_worker_0(lambda: judge_run(folder, config))


def planned_looks(config: RunConfig) -> int:
    """Evaluations that a run makes after the untrained model's: one per interval, and one of the last update."""
    return math.ceil(config.training.num_updates / config.evaluation.interval)


def trained_reward(config: RunConfig) -> str:
    """Metric of an evaluation for the reward that the run is trained on.

    A relative run raises the difference of its own control words; its plain score may well fall meanwhile.
    """
    return "reward/total/trained" if config.trained_words else "reward/total"

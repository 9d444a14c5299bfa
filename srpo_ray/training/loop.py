"""The training loop, as each Ray Train worker runs it."""

import json
import os
import socket
from datetime import UTC, datetime
from typing import Any

import ray.train
import ray.util
import torch

from srpo_ray.config import RunConfig
from srpo_ray.errors import CheckpointError
from srpo_ray.evaluation.reward_hacking import sign_texts
from srpo_ray.files import write_text
from srpo_ray.rewards.base import RewardScorer
from srpo_ray.rewards.local import LocalRewards
from srpo_ray.rewards.pool.client import RewardClient
from srpo_ray.runs.checkpoint import Checkpoint, load_checkpoint, run_identity
from srpo_ray.runs.collectives import rank_and_world_size
from srpo_ray.runs.folder import (
    CHECKPOINT_DAMAGED,
    CHECKPOINT_FAILED,
    CHECKPOINT_SAVED,
    RunFolder,
    append_row,
    drop_rows_after,
    read_rows,
)
from srpo_ray.runs.storage import Storage
from srpo_ray.runs.warnings import read_signs
from srpo_ray.tracking.tracker import Tracker
from srpo_ray.training.early_stop import Decision, agreed_decision
from srpo_ray.training.setup import build_trainer
from srpo_ray.training.trainer import Trainer
from srpo_ray.training.worker_arguments import WorkerArguments


def run_loop(arguments: WorkerArguments) -> None:
    """Train from the newest checkpoint to the last update, or to the first sign of reward hacking.

    Every update is a row in `updates.jsonl`, every evaluation one in `evaluations.jsonl`, a report to Ray and a
    checkpoint's chance; MLflow gets both.

    Raises:
        ValueError: If this host does not see the run's folder, or no checkpoint is left of those that were saved.
    """
    config, folder = arguments.config, RunFolder(arguments.run_dir)
    _require_shared(folder)
    device = _prepare_process(config)
    checkpoint = find_checkpoint(config, folder)
    start = checkpoint.update if checkpoint else 0
    trainer = build_trainer(config, folder, _connect_rewards(arguments), device, checkpoint)
    del checkpoint
    _note(folder, start, "started", f"workers: {trainer.world_size}")
    tracker = _open_tracker(arguments, folder, start) if trainer.rank == 0 else None
    training, evaluation = config.training, config.evaluation
    if start in (0, training.num_updates) or start % evaluation.interval == 0:
        # Made by another trial, or before a restart; or lost with the process that had only saved its checkpoint.
        known = [row for row in read_rows(folder.evaluations) if row["update"] == start]
        _publish(trainer, tracker, start, known[0] if known else trainer.evaluate(start), Decision())
    decision = agreed_decision(folder, config)
    made, leaving = start, frozenset[str]()
    while made < training.num_updates and not decision.stop:
        metrics = trainer.update(made)
        made += 1
        if tracker:
            append_row(folder.updates, {"update": made, **metrics})
            tracker.log_metrics(metrics, made)
        last = made == training.num_updates
        warned = leaving
        leaving |= _leaving_nodes()
        if leaving != warned:
            _note(folder, made, "preempted", f"nodes that will go: {len(leaving - warned)}")
        saved = last or made % training.checkpoint_interval == 0 or leaving != warned
        if saved:
            _save(trainer, made, decision.best_update, last=last)
        if last or made % evaluation.interval == 0:
            evaluated = trainer.evaluate(made)
            decision = agreed_decision(folder, config)
            _publish(trainer, tracker, made, evaluated, decision)
            if decision.saves_best and decision.best_update == made and not saved:
                _save(trainer, made, made)
    if tracker:
        _finish(folder, tracker, made, decision)


def _leaving_nodes() -> frozenset[str]:
    """Nodes of this run that the cluster has been told it will lose; the same on every worker, as all must call."""
    notice = ray.train.get_preemption_info()
    return frozenset(notice.preempted_node_to_ranks) if notice else frozenset()


def _save(trainer: Trainer, made: int, best: int | None, *, last: bool = False) -> None:
    """Write a checkpoint; where that fails the run goes on with the one before it, unless there is no later one."""
    try:
        trainer.save(made, protected=best)
    except CheckpointError as error:
        if last:
            raise
        _note(trainer.folder, made, CHECKPOINT_FAILED, str(error))
    else:
        _note(trainer.folder, made, CHECKPOINT_SAVED, "")


def find_checkpoint(config: RunConfig, folder: RunFolder) -> Checkpoint | None:
    """The checkpoint to go on from; None at the very start of a run. All workers must call.

    Those that are damaged are noted in `events.jsonl`, and said at the end of the run.

    Raises:
        ValueError: If some were saved and none can be used: to begin again would drop the rows of all that was done.
    """
    storage = Storage(folder.checkpoints)

    def tell(update: int, problem: str) -> None:
        _note(folder, update, CHECKPOINT_DAMAGED, problem)

    found = load_checkpoint(storage, run_identity(config), tell)
    saved = [row["update"] for row in read_rows(folder.events) if row["event"] == CHECKPOINT_SAVED]
    if saved and not found:
        raise ValueError(
            f"expected a whole checkpoint of {folder.path.name} in {storage.location}, where that of update {saved[-1]}"
            f" was saved, got none; mend or mount that place, or remove {folder.path} to begin again"
        )
    return found


def _note(folder: RunFolder, update: int, event: str, message: str) -> None:
    """Write down what happened to a run beside its updates."""
    if rank_and_world_size()[0] == 0:
        row = {"time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "update": update, "event": event, "message": message}
        append_row(folder.events, row)


def _require_shared(folder: RunFolder) -> None:
    """The driver has written the run's config: a host without it would write to a disk of its own."""
    if not folder.config.exists():
        raise ValueError(
            f"run_root: expected a folder that every node sees, got {folder.path}, which {socket.gethostname()} does"
            " not see; put run_root on storage that all nodes share, at the same path on each"
        )


def _prepare_process(config: RunConfig) -> str:
    if config.training.num_threads:
        torch.set_num_threads(config.training.num_threads)
    if config.training.num_gpus:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
        return device
    return "cpu"


def _connect_rewards(arguments: WorkerArguments) -> RewardScorer:
    config = arguments.config
    factors, official = config.rewards.factors, config.evaluation.preprocessing == "official"
    if arguments.pool is not None:
        return RewardClient.connect(arguments.pool, factors, official=official)
    return LocalRewards.load(
        config.rewards.models,
        config.evaluation.held_out,
        factors=factors,
        micro_batch_size=config.rewards.pool.micro_batch_size,
        official=official,
    )


def _open_tracker(arguments: WorkerArguments, folder: RunFolder, start: int) -> Tracker:
    """Rows after the checkpoint are written again, so what is there of them goes first."""
    for path in (folder.updates, folder.evaluations, folder.scores, folder.hacking):
        drop_rows_after(path, start)
    interval = arguments.config.tracking.flush_interval_s
    return Tracker(arguments.tracking_uri, arguments.tracking_run, folder.tracker_spool, interval)


def _publish(
    trainer: Trainer, tracker: Tracker | None, made: int, evaluation: dict[str, Any], decision: Decision
) -> None:
    metrics = {name: value for name, value in evaluation.items() if name != "update"}
    metrics["hacking/found"] = float(bool(decision.signs))
    if tracker:
        tracker.log_metrics(metrics, made)
        if decision.signs:
            tracker.log_text("\n".join(sign_texts(read_signs(trainer.folder))), "hacking.txt")
        if trainer.folder.gallery.exists():
            tracker.log_image(trainer.folder.gallery, "images")
    group = ray.util.get_current_placement_group()
    ray.train.report({"update": made, "placement_group": group.id.hex() if group else "", **metrics})


def _finish(folder: RunFolder, tracker: Tracker, made: int, decision: Decision) -> None:
    result: dict[str, Any] = {"updates": made, "evaluations": len(read_rows(folder.evaluations))}
    if decision.stop:
        result |= {"stopped_by": "reward_hacking", "best_update": decision.best_update}
    write_text(folder.finished, json.dumps(result) + "\n")
    tracker.log_text(folder.config.read_text(encoding="utf-8"), "config.yaml")
    tracker.close("FINISHED")

"""Training loop of a run: start from the newest checkpoint, then updates, checkpoints and evaluations."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch

from srpo_ray.config import RunConfig
from srpo_ray.config.continuation import run_identity
from srpo_ray.cuda import require_cuda
from srpo_ray.models.attention import check_attention
from srpo_ray.models.quantized import check_8_bit_floats, check_base
from srpo_ray.runs.activity import end_activity
from srpo_ray.runs.checkpoint import Checkpoint, load_checkpoint
from srpo_ray.runs.collectives import from_worker_0, rank_and_world_size
from srpo_ray.runs.folder import (
    CHECKPOINT_SAVED,
    STARTED,
    RunFolder,
    drop_rows_after,
    read_rows,
    row_0,
)
from srpo_ray.runs.start_from import started_at
from srpo_ray.runs.storage import Storage
from srpo_ray.runs.usage import metered
from srpo_ray.tracking.sinks import open_sinks
from srpo_ray.tracking.tracker import Tracker
from srpo_ray.training.baseline_cache import other_words
from srpo_ray.training.engine import Engine, restore_linear
from srpo_ray.training.evaluation import connect_rewards
from srpo_ray.training.gpus import require_own_gpu
from srpo_ray.training.host import Host
from srpo_ray.training.profiler import UpdateProfiler
from srpo_ray.training.ray_metrics import RayMetrics
from srpo_ray.training.run import TrainingRun, note_damage, note_event
from srpo_ray.training.setup import build_trainer
from srpo_ray.training.throughput import Throughput
from srpo_ray.training.worker_arguments import WorkerArguments

_THREADS = torch.get_num_threads()
"""Torch's own number of threads in this process."""


def run_loop(arguments: WorkerArguments, host: Host) -> None:
    """Train from the newest checkpoint to the last update, or until a sign of reward hacking stops the run.

    Each update appends a row to `updates.jsonl`. Each evaluation appends a row to `evaluations.jsonl` and reports to
    the host. A run with test prompts evaluates the base model and its chosen weights on them. MLflow receives all
    metrics. All workers must call.

    Raises:
        ValueError: If this host does not see the run's folder, or if checkpoints were saved and none is valid.
    """
    rank, workers = rank_and_world_size()
    gpus = workers * arguments.config.training.num_gpus
    folder = RunFolder(arguments.run_dir)
    _require_shared(folder)
    with metered(folder, workers, gpus) if rank == 0 else nullcontext():
        run = _start(arguments, host)
        try:
            with _closing(run.trainer.engine):
                _train(run)
        finally:
            if run.tracker:
                run.tracker.abandon()


@contextmanager
def _closing(engine: Engine) -> Iterator[None]:
    """Release the weights when the run ends or a search stops it. A process whose run fails trains no further one."""
    try:
        yield
    except SystemExit:
        engine.close()
        raise
    engine.close()


def _train(run: TrainingRun) -> None:
    training, evaluation = run.config.training, run.config.evaluation
    profiler = _profiler(run)
    is_start_kept = run.keep_start()
    if not is_start_kept:
        run.evaluate_start()
    update = run.start
    for update in run.remaining_updates():
        # Rows, events and checkpoints count the updates made. The trainer takes the index of an update, from 0.
        cpu_seconds = time.process_time()
        with profiler.update(update):
            metrics = run.trainer.update(update - 1)
        run.log(update, {**metrics, "time/cpu": time.process_time() - cpu_seconds})
        if is_start_kept and update == 1:
            run.evaluate_start()
        preempted = run.nodes_about_to_leave(update)
        if preempted or run.is_due(update, training.checkpoint_interval):
            run.save(update)
        if run.is_due(update, evaluation.interval):
            decision = run.evaluate_and_check_for_hacking(update)
            if decision.stop:
                break
    best = run.test_chosen(update)
    # The test of the base model comes last, as its weights replace the trained ones; so it delays no update either.
    run.test(0)
    run.finish(update, best)


def _start(arguments: WorkerArguments, host: Host) -> TrainingRun:
    """Load the newest checkpoint, build the trainer and, on worker 0, connect to MLflow."""
    config, folder = arguments.config, RunFolder(arguments.run_dir)
    if rank_and_world_size()[0] == 0:
        end_activity(folder)
    device = _prepare_process(config)
    check_attention(config.model.attention, device)
    check_base(config.model.base, device)
    check_8_bit_floats(config.rollout.base, device, "rollout.base")
    checkpoint = find_checkpoint(config, folder)
    start = checkpoint.update if checkpoint else 0
    rank, workers = rank_and_world_size()
    # Before the engine exists: it replaces functions of torch, whose calls are counted here.
    throughput = Throughput.of(config, workers, folder.model_flops) if rank == 0 else None
    rewards = connect_rewards(config, arguments.pool, device)
    words = other_words(config) if arguments.in_experiment else {}
    if checkpoint and _lacks_baseline(folder):
        trainer = build_trainer(config, folder, rewards, device, checkpoint, base_first=True, words=words)
        trainer.evaluate(0)
        trainer.resume(checkpoint)
    else:
        trainer = build_trainer(config, folder, rewards, device, checkpoint, words=words)
    note_event(folder, start, STARTED, f"workers: {trainer.world_size}, {config.parallelism}")
    tracker = _open_tracker(arguments, folder, start) if trainer.rank == 0 else None
    gauges = RayMetrics.of(config.name) if tracker and config.tracking.ray_metrics else None
    return TrainingRun(config, folder, host, trainer, tracker, start, throughput, gauges)


def _lacks_baseline(folder: RunFolder) -> bool:
    """True if a run continues from the checkpoint of a run whose evaluation of the base model it could not take over.

    All workers must call.
    """
    return from_worker_0(lambda: folder.start.exists() and row_0(folder.evaluations) is None)


def find_checkpoint(config: RunConfig, folder: RunFolder) -> Checkpoint | None:
    """Newest valid checkpoint; None if the run has saved none. All workers must call.

    `events.jsonl` records damaged checkpoints, and the run reports them at its end.

    Raises:
        ValueError: If checkpoints were saved and none is valid: a start from scratch would drop the rows of the run.
    """
    storage = Storage(folder.checkpoints)
    found = load_checkpoint(storage, run_identity(config), partial(note_damage, folder))
    saved = [row["update"] for row in read_rows(folder.events) if row["event"] == CHECKPOINT_SAVED]
    last = saved[-1] if saved else started_at(folder)
    if last and not found:
        raise ValueError(
            f"expected a valid checkpoint of {folder.path.name} in {storage.location}, where the run saved update"
            f" {last}, got none; restore or mount that storage, or delete {folder.path} to start from scratch"
        )
    return found


def _require_shared(folder: RunFolder) -> None:
    """Check for the config that the driver has written: a host that lacks it would write to its local disk."""
    if not folder.config.exists():
        raise ValueError(
            f"run_root: expected a folder that every node sees, got {folder.path}, which {socket.gethostname()} does"
            " not see; put run_root on storage that all nodes share, at the same path on each"
        )


def _profiler(run: TrainingRun) -> UpdateProfiler:
    """Profiler of the updates, on worker 0 only."""
    training = run.config.training
    return UpdateProfiler(run.folder.profile, training.profile_updates if run.tracker else 0, gpu=training.num_gpus > 0)


def _prepare_process(config: RunConfig) -> str:
    require_own_gpu()
    restore_linear()
    # An earlier run of this process may have changed the number of threads.
    threads = config.training.num_threads or _THREADS
    if config.training.num_threads or torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if config.training.num_gpus:
        require_cuda("training.num_gpus")
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
        return device
    return "cpu"


def _open_tracker(arguments: WorkerArguments, folder: RunFolder, start: int) -> Tracker:
    """Connect to the trackers, and drop the rows after the checkpoint, as the run writes them again."""
    for path in (folder.updates, folder.evaluations, folder.scores, folder.test_scores, folder.hacking):
        drop_rows_after(path, start)
    tracking = arguments.config.tracking
    return Tracker(
        arguments.tracking_uri,
        arguments.tracking_run,
        folder.tracker_spool,
        tracking.flush_interval_s,
        sinks=open_sinks(arguments.config, folder.tracker_record),
        system_interval_s=tracking.system_interval_s,
    )

"""A training run in progress: its updates left, checkpoints, evaluations, tests and events."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from srpo_ray.config import RunConfig
from srpo_ray.errors import CheckpointError
from srpo_ray.evaluation.reward_hacking import sign_texts
from srpo_ray.files import write_text
from srpo_ray.runs.checkpoint import valid_checkpoint
from srpo_ray.runs.checkpoint_files import complete_checkpoints
from srpo_ray.runs.collectives import from_worker_0, rank_and_world_size
from srpo_ray.runs.folder import (
    CHECKPOINT_DAMAGED,
    CHECKPOINT_FAILED,
    CHECKPOINT_SAVED,
    RunFolder,
    append_row,
    read_rows,
    read_test_means,
    row_0,
)
from srpo_ray.runs.start_from import started_at
from srpo_ray.runs.storage import Storage
from srpo_ray.runs.warnings import read_signs
from srpo_ray.tracking.tracker import Tracker
from srpo_ray.training.early_stop import Decision, agreed_decision
from srpo_ray.training.host import Host
from srpo_ray.training.ray_metrics import RayMetrics
from srpo_ray.training.throughput import Throughput
from srpo_ray.training.trainer import Trainer


@dataclass
class TrainingRun:
    """One worker's share of a run in progress; `update` is a number of updates made."""

    config: RunConfig
    folder: RunFolder
    host: Host
    trainer: Trainer
    tracker: Tracker | None
    """Connection to MLflow, on worker 0 only."""
    start: int
    """Updates made before this start of the run."""
    throughput: Throughput | None = None
    """Throughput of the updates, on worker 0 only."""
    gauges: RayMetrics | None = None
    """Metrics for Prometheus, on worker 0 only, if the config asks for them."""
    decision: Decision = field(default_factory=Decision)
    """Decision after the latest evaluation."""
    saved: int | None = None
    """Update of the latest checkpoint, written or failed."""
    leaving: frozenset[str] = frozenset()
    """Nodes of this run for which the cluster has announced a preemption."""

    def remaining_updates(self) -> range:
        """Updates still to be made; none if a sign of reward hacking has stopped the run before its restart."""
        return range(0) if self.decision.stop else range(self.start + 1, self.config.training.num_updates + 1)

    def is_due(self, update: int, interval: int) -> bool:
        """True every `interval` updates and at the last update."""
        return update == self.config.training.num_updates or update % interval == 0

    def log(self, update: int, metrics: dict[str, float]) -> None:
        """Write the metrics of an update, with its throughput, to the run's folder and to MLflow."""
        if self.throughput:
            metrics = {**metrics, **self.throughput.metrics(metrics)}
        if self.tracker:
            append_row(self.folder.updates, {"update": update, **metrics})
            self.tracker.log_metrics(metrics, update)
        if self.gauges:
            self.gauges.set(update, metrics)

    def nodes_about_to_leave(self, update: int) -> bool:
        """True if the cluster has announced further preemptions; the same on every worker, as all must call."""
        new = self.host.leaving_nodes() - self.leaving
        self.leaving |= new
        if new:
            note_event(self.folder, update, "preempted", f"nodes that will go: {len(new)}")
        return bool(new)

    def save(self, update: int) -> None:
        """Write a checkpoint. If that fails, the run continues with the previous one, except after the last update.

        Raises:
            CheckpointError: If the checkpoint of the last update cannot be written.
        """
        self.saved = update
        try:
            self.trainer.save(update, protected=self.decision.best_update)
        except CheckpointError as error:
            if update == self.config.training.num_updates:
                raise
            note_event(self.folder, update, CHECKPOINT_FAILED, str(error))
        else:
            note_event(self.folder, update, CHECKPOINT_SAVED, "")

    def keep_start(self) -> bool:
        """Keep the weights before the first update, whose evaluation then follows this update. All workers must call.

        So a lack of memory or a reward without a gradient shows in the first update, and not after a long evaluation.

        Returns:
            False, and nothing is kept, if this start makes no first update or the evaluation is known.
        """
        if self.start or not self.config.training.num_updates:
            return False
        if from_worker_0(lambda: row_0(self.folder.evaluations) is not None):
            return False
        self.trainer.engine.keep_start()
        return True

    def evaluate_start(self) -> None:
        """Publish the evaluation of the weights of this start if one is due, and repeat the decision that it leads to.

        It comes before the first update, or after it if `keep_start` has kept the weights. All workers must call.

        A run that continues from another run's checkpoint evaluates nothing there: the other run has done so, or was
        evaluated otherwise.
        """
        if 0 < self.start == from_worker_0(lambda: started_at(self.folder)):
            for row in self._known_evaluations():
                if row["update"] in (0, self.start):
                    self.publish(row["update"], row, Decision())
        elif self.is_due(self.start, self.config.evaluation.interval):
            # An earlier start may have written the row; a crash just after the checkpoint lost it.
            known = [row for row in self._known_evaluations() if row["update"] == self.start]
            evaluated = known[0] if known else self.trainer.evaluate(self.start)
            self.publish(self.start, evaluated, Decision())
        self.decision = agreed_decision(self.folder, self.config)

    def _known_evaluations(self) -> list[dict[str, Any]]:
        """Rows of the evaluations, as worker 0 reads them: on a shared disk another host may not see the last one."""
        return from_worker_0(lambda: read_rows(self.folder.evaluations))

    def evaluate_and_check_for_hacking(self, update: int) -> Decision:
        """Evaluate and look for signs of reward hacking. Save the best evaluation's checkpoint if none was due."""
        evaluated = self.trainer.evaluate(update)
        self.decision = agreed_decision(self.folder, self.config)
        self.publish(update, evaluated, self.decision)
        if self.decision.saves_best and self.decision.best_update == update and self.saved != update:
            self.save(update)
        return self.decision

    def publish(self, update: int, evaluation: dict[str, Any], decision: Decision) -> None:
        """Send an evaluation to MLflow and report it to the host."""
        metrics = {name: value for name, value in evaluation.items() if name != "update"}
        metrics["hacking/found"] = float(bool(decision.signs))
        if self.tracker:
            self.tracker.log_metrics(metrics, update)
            if decision.signs:
                self.tracker.log_text("\n".join(sign_texts(read_signs(self.folder))), "hacking.txt", update)
            if self.folder.gallery.exists():
                self.tracker.log_image(self.folder.gallery, "images", update)
        if self.gauges:
            self.gauges.set(update, metrics)
        self.host.report({"update": update, **metrics})

    def test(self, update: int) -> None:
        """Evaluate the model's weights on the test prompts, if the run has any and no earlier start has done so."""
        if self.trainer.tester is None:
            return
        if update in from_worker_0(lambda: [row["update"] for row in read_rows(self.folder.test_scores)]):
            return
        if update:
            self.trainer.test(update)
        else:
            self.trainer.test_base()

    def test_chosen(self, update: int) -> int | None:
        """Choose the weights that stand for the run, and evaluate them on the test prompts.

        Args:
            update: Updates made.

        Returns:
            Update of the best evaluation whose weights can be read; None if the weights of the last update stand for
            the run.
        """
        if not self.decision.saves_best or (self.config.evaluation.choose == "last" and not self.decision.stop):
            self.test(update)
            return None
        storage = Storage(self.folder.checkpoints)
        complete = {0, *from_worker_0(lambda: complete_checkpoints(storage))}
        for best in [each for each in self.decision.ranking if each in complete]:
            if self.trainer.tester and best not in (0, update):
                checkpoint = valid_checkpoint(storage, best, partial(note_damage, self.folder))
                if checkpoint is None:
                    continue
                self.trainer.load_for_evaluation(checkpoint)
            if best:
                self.test(best)
            return best
        self.test(update)
        return None

    def finish(self, update: int, best_update: int | None) -> None:
        """Mark the run as finished, in its folder and in MLflow.

        Args:
            update: Updates made.
            best_update: Update of the best evaluation if its weights stand for the run.
        """
        if not self.tracker:
            return
        for means in read_test_means(self.folder):
            tested = int(means.pop("update"))
            self.tracker.log_metrics({f"test/{name}": value for name, value in means.items()}, tested)
        result: dict[str, Any] = {"updates": update, "evaluations": len(read_rows(self.folder.evaluations))}
        if self.decision.stop:
            result["stopped_by"] = "reward_hacking"
        if best_update is not None:
            result["best_update"] = best_update
        write_text(self.folder.finished, json.dumps(result) + "\n")
        self.tracker.log_text(self.folder.config.read_text(encoding="utf-8"), "config.yaml", update)
        self.tracker.close("FINISHED")


def note_event(folder: RunFolder, update: int, event: str, message: str) -> None:
    """Append an event to `events.jsonl`, from worker 0."""
    if rank_and_world_size()[0] == 0:
        row = {"time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "update": update, "event": event, "message": message}
        append_row(folder.events, row)


def note_damage(folder: RunFolder, update: int, problem: str) -> None:
    """Append the event of a damaged checkpoint, from worker 0."""
    note_event(folder, update, CHECKPOINT_DAMAGED, problem)

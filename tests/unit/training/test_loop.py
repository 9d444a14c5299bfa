"""The training loop and the process that it runs in."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from srpo_ray.config import RunConfig, apply, load_run
from srpo_ray.runs.folder import RunFolder, append_row, read_rows
from srpo_ray.training import loop
from srpo_ray.training.early_stop import Decision
from srpo_ray.training.loop import _prepare_process, run_loop
from srpo_ray.training.run import TrainingRun
from srpo_ray.training.worker_arguments import WorkerArguments
from tests.conftest import SMALL_WORLD


class NotedTracker:
    """Tracker that only notes the calls that end it."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        pass

    def log_text(self, text: str, artifact_file: str, step: int = 0) -> None:
        pass

    def close(self, status: str) -> None:
        self.ends.append(status)

    def abandon(self) -> None:
        self.ends.append("abandoned")


class NotedHost:
    """Process that receives rows, and that ends the loop at an update as Ray Tune does."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.rows: list[dict[str, Any]] = []
        self.events: list[str] = []
        """Steps of the trainer, and reports."""

    def report(self, row: dict[str, Any]) -> None:
        self.events.append(f"report {row['update']}")
        self.rows.append(row)
        if row["update"] == self.stop_at:
            raise SystemExit(0)

    def leaving_nodes(self) -> frozenset[str]:
        return frozenset()


CLOSED: list[Path] = []
"""Folders of the runs whose engine was closed."""


class NotedTrainer:
    """Trainer whose updates cost nothing, without test prompts."""

    tester = None

    def __init__(self, folder: RunFolder, events: list[str]) -> None:
        self.folder, self.events = folder, events
        self.engine = SimpleNamespace(
            close=lambda: CLOSED.append(folder.path), keep_start=lambda: self.events.append("keep start")
        )

    def update(self, update: int) -> dict[str, float]:
        self.events.append(f"update {update + 1}")
        return {"loss": float(update)}

    def evaluate(self, update: int) -> dict[str, float]:
        self.events.append(f"evaluate {update}")
        row = {"evaluator/held_out": 0.5}
        append_row(self.folder.evaluations, {"update": update, **row})
        return row

    def save(self, update: int, protected: int | None) -> None:
        self.events.append(f"save {update}")


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    few = ["training.num_updates=4", "evaluation.interval=2", "training.checkpoint_interval=2"]
    return load_run([SMALL_WORLD], [f"run_root={tmp_path}", *few])


def run(
    config: RunConfig, host: NotedHost, monkeypatch: pytest.MonkeyPatch, gauges: Any = None, start: int = 0
) -> tuple[RunFolder, NotedTracker]:
    folder, tracker = RunFolder(Path(config.run_root) / "run"), NotedTracker()
    folder.make()
    folder.config.touch()
    trainer: Any = NotedTrainer(folder, host.events)
    started = TrainingRun(config, folder, host, trainer, tracker, start, gauges=gauges)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(loop, "_start", lambda *_: started)
    monkeypatch.setattr("srpo_ray.training.run.agreed_decision", lambda *_: Decision())
    run_loop(WorkerArguments(config, str(folder.path), None, "", ""), host)
    return folder, tracker


def test_state_that_an_earlier_run_left_in_the_process_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, threads = torch.nn.functional.linear, torch.get_num_threads()
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *_: None)
    try:
        assert _prepare_process(load_run([SMALL_WORLD], [f"training.num_threads={threads + 1}"])) == "cpu"
        assert torch.get_num_threads() == threads + 1
        assert torch.nn.functional.linear is linear
        _prepare_process(load_run([SMALL_WORLD]))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(threads)


def test_rows_of_all_evaluations_reach_the_process_of_the_loop(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = NotedHost()
    folder, tracker = run(config, host, monkeypatch)
    assert [(row["update"], row["evaluator/held_out"], row["hacking/found"]) for row in host.rows] == [
        (update, 0.5, 0.0) for update in (0, 2, 4)
    ]
    assert [row["update"] for row in read_rows(folder.updates)] == [1, 2, 3, 4]
    assert tracker.ends[0] == "FINISHED"
    assert folder.path in CLOSED


def test_model_before_the_first_update_is_evaluated_after_it_and_before_its_checkpoint(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = NotedHost()
    run(apply(config, {"training.checkpoint_interval": 1, "training.num_updates": 2}), host, monkeypatch)
    assert host.events == [
        *("keep start", "update 1", "evaluate 0", "report 0", "save 1"),
        *("update 2", "save 2", "evaluate 2", "report 2"),
    ]


def test_run_without_updates_evaluates_its_model(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    host = NotedHost()
    run(apply(config, {"training.num_updates": 0}), host, monkeypatch)
    assert host.events == ["evaluate 0", "report 0"]


@pytest.mark.parametrize("start", [0, 2])
def test_later_start_publishes_a_known_evaluation_before_its_updates(
    start: int, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, host = RunFolder(Path(config.run_root) / "run"), NotedHost()
    folder.make()
    for update in range(0, start + 1, 2):
        append_row(folder.evaluations, {"update": update, "evaluator/held_out": 0.25})
    run(config, host, monkeypatch, start=start)
    assert host.events[:2] == [f"report {start}", f"update {start + 1}"]
    assert "evaluate 0" not in host.events
    assert host.rows[0]["evaluator/held_out"] == 0.25


def test_evaluation_that_is_lost_after_its_checkpoint_is_made_before_the_next_update(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, host = RunFolder(Path(config.run_root) / "run"), NotedHost()
    folder.make()
    append_row(folder.evaluations, {"update": 0, "evaluator/held_out": 0.25})
    run(config, host, monkeypatch, start=2)
    assert host.events[:3] == ["evaluate 2", "report 2", "update 3"]


def test_gauges_get_the_updates_and_the_evaluations(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[tuple[int, dict[str, float]]] = []
    gauges = SimpleNamespace(set=lambda update, metrics: noted.append((update, metrics)))
    run(config, NotedHost(), monkeypatch, gauges)
    assert [(update, metrics["loss"]) for update, metrics in noted if "loss" in metrics] == [
        (1, 0.0),
        (2, 1.0),
        (3, 2.0),
        (4, 3.0),
    ]
    assert [update for update, metrics in noted if "evaluator/held_out" in metrics] == [0, 2, 4]


def test_loop_that_its_process_stops_leaves_no_delivery_behind(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trackers: list[NotedTracker] = []
    monkeypatch.setattr(NotedTracker, "abandon", lambda tracker: trackers.append(tracker))
    host = NotedHost(stop_at=2)
    with pytest.raises(SystemExit):
        run(config, host, monkeypatch)
    assert [row["update"] for row in host.rows] == [0, 2]
    (tracker,) = trackers
    assert tracker.ends == []
    folder = RunFolder(Path(config.run_root) / "run")
    assert folder.path in CLOSED
    assert [row["update"] for row in read_rows(folder.updates)] == [1, 2]
    assert not folder.finished.exists()

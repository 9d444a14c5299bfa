"""Lines about a run in progress, from two looks at its files."""

from dataclasses import replace
from pathlib import Path

import pytest

from srpo_ray.live import display
from srpo_ray.live.display import LineDisplay
from srpo_ray.live.lines import event_lines, heartbeat_line, summary
from srpo_ray.live.state import Progress
from srpo_ray.live.view import ViewReader, run_folder
from srpo_ray.runs.activity import report_activity
from srpo_ray.runs.folder import CHECKPOINT_FAILED, CHECKPOINT_SAVED, STARTED, append_row
from tests.unit.live.conftest import OBJECTIVE, evaluate, sign, train


def test_every_event_between_two_looks_is_one_line(experiment: tuple[Path, Progress]) -> None:
    path, progress = experiment
    reader = ViewReader(path)
    before = reader.read(progress)
    folder = run_folder(path, progress, progress.runs[1])
    evaluate(folder, 4, 0.625)
    evaluate(folder, 8, 0.4375)
    sign(folder, 4)
    sign(folder, 8)
    append_row(folder.events, {"update": 0, "event": STARTED, "message": "workers: 2"})
    append_row(folder.events, {"update": 4, "event": CHECKPOINT_SAVED, "message": ""})
    append_row(folder.events, {"update": 4, "event": STARTED, "message": "workers: 1"})
    append_row(folder.events, {"update": 8, "event": CHECKPOINT_FAILED, "message": "disk full"})
    ended = replace(progress, phase="all arms", runs=[*progress.runs[:1], replace(progress.runs[1], status="done")])
    events = list(event_lines(before, reader.read(ended)))
    assert [event.text for event in events] == [
        "study: all arms",
        "trial_1: restarted at update 4: workers: 1",
        "trial_1: checkpoint failed: disk full",
        f"trial_1: update 4/8: {OBJECTIVE} 0.6250 (+0.1250)",
        f"trial_1: update 8/8: {OBJECTIVE} 0.4375 (-0.0625)",
        "trial_1: reward hacking: update 4: images look alike",
        "trial_1: finished at update 3",
    ]
    assert [event.warning for event in events] == [False, False, True, False, False, True, False]
    assert not list(event_lines(reader.read(ended), reader.read(ended)))


@pytest.mark.parametrize(
    ("status", "text"),
    [("failed", "failed at update 3: out of memory"), ("stopped early", "stopped early at update 3")],
)
def test_end_that_was_not_planned_is_a_line(experiment: tuple[Path, Progress], status: str, text: str) -> None:
    path, progress = experiment
    ended = replace(progress.runs[1], status=status, error="out of memory")  # pyright: ignore[reportArgumentType]
    (event,) = event_lines(ViewReader(path).read(progress), ViewReader(path).read(replace(progress, runs=[ended])))
    assert event.text == f"trial_1: {text}"
    assert event.warning == (status == "failed")


def test_run_that_a_budget_has_no_room_for_is_one_line_and_not_counted_as_done(
    experiment: tuple[Path, Progress],
) -> None:
    path, progress = experiment
    reader = ViewReader(path)
    refused = replace(progress, runs=[*progress.runs[:3], replace(progress.runs[3], status="not started")])
    views = [reader.read(progress), reader.read(refused), reader.read(refused)]
    (event,) = event_lines(*views[:2])
    assert event.text == "trial_3: not started: the budget has no room for it"
    assert not list(event_lines(*views[1:]))
    assert summary(views[1]).startswith("2 of 6 runs done, 1 running, 1 failed, 1 not started")


def test_first_look_sums_up_what_happened_before(experiment: tuple[Path, Progress]) -> None:
    path, progress = experiment
    evaluate(run_folder(path, progress, progress.runs[1]), 4, 0.625)
    assert [event.text for event in event_lines(None, ViewReader(path).read(progress))] == [
        "study: search for SRPO",
        "trial_1: at update 3/8: lr 1e-6",
        f"trial_1: update 4/8: {OBJECTIVE} 0.6250 (+0.1250)",
    ]


def test_run_of_an_earlier_start_is_one_line(experiment: tuple[Path, Progress]) -> None:
    path, progress = experiment
    reader = ViewReader(path)
    before, now = (reader.read(replace(progress, runs=runs)) for runs in ([], progress.runs[:3:2]))
    events = list(event_lines(before, now))
    assert [event.text for event in events] == [
        "trial_0: finished at update 8",
        "trial_2: failed at update 1: out of memory",
    ]


def test_started_run_is_named_with_its_settings(experiment: tuple[Path, Progress]) -> None:
    path, progress = experiment
    begun = [*progress.runs[:3], replace(progress.runs[3], status="running")]
    reader = ViewReader(path)
    (event,) = event_lines(reader.read(progress), reader.read(replace(progress, runs=begun)))
    assert event.text == "trial_3: started: lr 3e-6"


def test_evaluation_in_progress_replaces_the_estimate_and_the_begin_of_the_first_one_is_a_line(
    experiment: tuple[Path, Progress],
) -> None:
    path, progress = experiment
    reader = ViewReader(path)
    trained, new = (run_folder(path, progress, progress.runs[index]) for index in (1, 3))
    new.make()
    # The first evaluation follows the first update.
    append_row(new.updates, {"update": 1, "time/update": 1.0})
    begun = replace(progress, runs=[*progress.runs[:3], replace(progress.runs[3], status="running")])
    before = reader.read(begun)
    for folder in (trained, new):
        report_activity(folder, "evaluation", 32, 96)
    view = reader.read(begun)
    assert [event.text for event in event_lines(before, view)] == ["trial_3: evaluation 32/96"]
    shown = "trial_1 at update 3/8, evaluation 32/96, trial_3 at update 1/8, evaluation 32/96"
    assert heartbeat_line(view).endswith(shown)
    report_activity(trained, "evaluation", 96, 96)
    assert not trained.activity.exists()
    assert "about 0:10 left" in heartbeat_line(reader.read(begun))


def test_half_written_row_is_not_read(experiment: tuple[Path, Progress]) -> None:
    path, progress = experiment
    folder = run_folder(path, progress, progress.runs[1])
    for file in (folder.updates, folder.evaluations):
        with file.open("a") as stream:
            stream.write('{"update": 4, "evaluator/hel')
    view = ViewReader(path).read(progress).runs[1]
    assert (view.update, len(view.evaluations)) == (3, 1)


def test_remaining_time_is_that_of_the_latest_updates(experiment: tuple[Path, Progress]) -> None:
    path, progress = experiment
    folder = run_folder(path, progress, progress.runs[1])
    folder.updates.unlink()
    train(folder, 2, seconds=100.0)
    for update in range(3, 11):
        append_row(folder.updates, {"update": update, "time/update": 6.0})
    run = replace(progress.runs[1], num_updates=20)
    view = ViewReader(path).read(replace(progress, runs=[run]))
    assert view.runs[0].seconds_left == pytest.approx(60.0)
    assert heartbeat_line(view).endswith("trial_1 at update 10/20, about 1:00 left")


def test_summary_counts_runs_and_ends_with_the_facts_of_the_driver(experiment: tuple[Path, Progress]) -> None:
    path, progress = experiment
    spent = replace(progress, facts={"spent": "12.00 of 20.00 USD"})
    view = ViewReader(path).read(spent)
    assert summary(view) == "2 of 6 runs done, 1 running, 1 failed, spent 12.00 of 20.00 USD"


def test_heartbeat_comes_only_after_a_minute_without_a_line(
    experiment: tuple[Path, Progress], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, progress = experiment
    now = 1000.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    lines = LineDisplay()
    reader = ViewReader(path)
    printed = []
    for now in (1000.0, 1030.0, 1059.0, 1061.0, 1100.0, 1122.0):  # noqa: B007 # read by the clock above
        lines.show(reader.read(progress))
        printed.append(len(capsys.readouterr().err.splitlines()))
    assert printed == [3, 0, 0, 1, 0, 1]

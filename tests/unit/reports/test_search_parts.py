"""Sections on rungs and on schedules."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from srpo_ray.evaluation.results import Results
from srpo_ray.evaluation.search_parts import Member, RoundResult, RungResult
from srpo_ray.reports.experiment import experiment_report
from srpo_ray.reports.html import page_text
from srpo_ray.reports.report import Charts, Section, Table
from srpo_ray.reports.search_parts import promotion_section, saved_text, schedule_section

LR, WORDS = "training.optimizer.lr", "algorithm.control_words"
RUNGS = [
    RungResult(10, {"evaluation.num_prompts": 4}, 8, 2, 80, 400.0, 0.5),
    RungResult(40, {}, 2, 0, 60, 600.0, 0.7),
]


def member(name: str, lr: float, words: str, source: str | None, objective: float, copied: bool = False) -> Member:
    return Member(name, {LR: lr, WORDS: words}, source, objective, copied)


ROUNDS = [
    RoundResult(20, [member("a1", 1e-6, "vivid", None, 0.5), member("b1", 4e-6, "bright", None, 0.6)]),
    RoundResult(40, [member("t00", 5e-6, "muted", "b1", 0.8, copied=True), member("b2", 4e-6, "bright", "b1", 0.7)]),
]


def with_parts(sweep: Results, **parts: Any) -> Results:
    """The sweep with rungs or rounds; the name of a run ends with the rung that its trial reached."""
    search = replace(sweep.searches[0], **parts)
    if search.rungs:
        rows = [replace(row, name=f"{row.name}_rung_{1 + (row.name == 't00')}") for row in search.rows]
        search = replace(search, rows=rows, chosen="t00_rung_2")
    return replace(sweep, searches=[search])


def cells(section: Section | None, keys: Sequence[str]) -> list[list[Any]]:
    """Values of a section's table, row by row."""
    assert section is not None
    table = next(part for part in section.parts if isinstance(part, Table))
    return [[row.cells[key] for key in keys] for row in table.rows]


def titles(sections: Sequence[Section]) -> list[str]:
    return [section.title for section in sections]


def test_rungs_have_their_trials_updates_and_calls(sweep: Results) -> None:
    found = with_parts(sweep, rungs=RUNGS)
    section = promotion_section(found, found.searches[0])
    assert cells(section, ("updates", "trials", "promoted", "made", "calls", "best")) == [
        [10, 8, 2, 80, 400.0, 0.5],
        [40, 2, 0, 60, 600.0, 0.7],
    ]
    html = page_text(experiment_report(found))
    assert "evaluation.num_prompts 4" in html
    assert "rung 2: t00." in html


def test_saved_calls_are_those_of_the_updates_that_were_not_made() -> None:
    # 140 of 320 updates. Ten calls an update in the last rung, so 3200 calls for whole trials, and 1000 were made.
    text = saved_text(RUNGS)
    assert text.startswith("They made 140 of the 320 updates of as many whole trials (44%), with 1000 velocity")
    assert text.endswith("whole trials would take 3200, so 69% were saved.")
    assert saved_text([RUNGS[0], replace(RUNGS[1], made=0)]).endswith("(25%).")


def test_schedule_follows_the_chosen_trial_back_through_its_copies(sweep: Results) -> None:
    found = with_parts(sweep, rounds=ROUNDS)
    (search,) = found.searches
    assert search.schedule == [(20, {LR: 4e-6, WORDS: "bright"}), (40, {LR: 5e-6, WORDS: "muted"})]
    section = schedule_section(found, search)
    assert cells(section, ("updates", LR, WORDS, "objective", "run", "source")) == [
        [20, 4e-6, "bright", 0.6, "b1", None],
        [40, 5e-6, "muted", 0.8, "t00", "b1 (copied)"],
    ]
    assert section is not None
    (charts,) = [part for part in section.parts if isinstance(part, Charts)]
    # Words are no numbers. The chosen trial's value steps at the end of the first round.
    (chart,) = charts.charts
    best = next(line for line in chart.lines if line.style == "best")  # pyright: ignore[reportAttributeAccessIssue]
    assert best.pieces == [[(0, 4e-6), (20, 4e-6), (20, 5e-6), (40, 5e-6)]]


def test_final_values_of_a_population_explain_no_scores(sweep: Results) -> None:
    plain, found = (titles(experiment_report(each).sections) for each in (sweep, with_parts(sweep, rounds=ROUNDS)))
    assert "Which parameter mattered" in plain
    assert "Schedule" not in plain
    assert "Promotion" not in plain
    assert "Which parameter mattered" not in found
    assert "Schedule" in found

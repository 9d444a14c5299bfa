"""Page of work in progress in a browser: its age, and its loads."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from playwright.sync_api import Page, expect

from srpo_ray.files import write_text
from srpo_ray.live.state import Progress, RunState
from srpo_ray.reports.html import page_text
from srpo_ray.reports.live import live_report
from srpo_ray.reports.report import Column, Image, Images, Report, Row, Section, Table, Text
from tests.helpers.browser import launch_browser

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc00000030001"
    "00c9fe92ef0000000049454e44ae426082"
)
RUNS = [RunState("one", 8, "done"), RunState("two", 8, "running"), RunState("three", 8)]
WRITTEN = 1_800_000_000.0
"""Time at which a page is written, in seconds since 1970."""
START = replace(Progress.start("study", "experiment", 3, []), runs=RUNS)


def page_of(progress: Progress) -> str:
    table = Table([Column("run"), Column("score")], [Row({"run": n, "score": n}) for n in "abc"], "run", sortable=True)
    parts = [table, Images(Image(PNG, "nothing"), folded="Images"), *[Text("text")] * 80]
    report = Report("study", "", [Section("Runs", parts)])
    return page_text(report if progress.state == "finished" else live_report(report, progress, {"two": 4}))


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """A phone's page whose clock stands still until it is advanced."""
    monkeypatch.setattr("srpo_ray.reports.live.time", SimpleNamespace(time=lambda: WRITTEN))
    with launch_browser() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        # The page reads its own age from the clock, and a browser on a busy machine takes seconds to load a page.
        # The clock runs until it is paused, and it cannot go back.
        page.clock.install(time=WRITTEN - 3600)
        page.clock.pause_at(WRITTEN)
        yield page


def test_page_loads_itself_keeps_the_place_of_its_reader_and_becomes_the_final_one(page: Page, tmp_path: Path) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    file = write_text(tmp_path / "report.html", page_of(START))
    page.goto(file.as_uri())
    age = page.locator("#age")
    expect(age).to_have_text("Written 0 s ago. The run is in progress: 1 of 3 runs done.")
    page.clock.run_for(12_000)
    expect(age).to_have_text("Written 12 s ago. The run is in progress: 1 of 3 runs done.")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("summary").click()
    score = page.locator("th", has_text="score")
    score.locator("button").click()
    score.locator("button").click()
    page.evaluate("scrollTo(0, 700)")

    write_text(file, page_of(replace(START, runs=[replace(run, status="done") for run in RUNS[:2]] + RUNS[2:])))
    page.clock.run_for(10_000)
    expect(age).to_contain_text("2 of 3 runs done")
    assert page.locator("details").get_attribute("open") is not None
    expect(score).to_have_attribute("aria-sort", "descending")
    assert page.evaluate("scrollY") == 700

    expect(age).not_to_have_class("notice warning")
    page.clock.run_for(200_000)
    expect(age).to_have_class("notice warning")
    expect(age).to_contain_text("No newer page has come")

    write_text(file, page_of(replace(START, state="finished")))
    page.clock.run_for(25_000)
    expect(age).to_have_count(0)
    assert not errors

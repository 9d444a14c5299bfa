"""The Pareto front in the report, and reports of searches whose trials lack some parameters."""

import csv
import io
import json
import random
from dataclasses import replace

from srpo_ray.evaluation.importance import variance_explained
from srpo_ray.evaluation.results import Results, Search, TrialRow
from srpo_ray.reports.experiment import experiment_report
from srpo_ray.reports.files import file_text
from srpo_ray.reports.front import front_charts, front_section, front_table
from srpo_ray.reports.html import page_text
from srpo_ray.reports.report import Table
from srpo_ray.reports.sweep_charts import slice_charts

SCORE, DRIFT = "evaluator/held_out", "image/drift"


def trial(name: str, score: float, drift: float, **params: object) -> TrialRow:
    history = [{"update": 0, SCORE: 0.4, DRIFT: 0.0}, {"update": 60, SCORE: score, DRIFT: drift}]
    return TrialRow(name, "trial", name, params, history, "finished", 1.0, 0)


def searched(sweep: Results, rows: list[TrialRow], front: list[str], breaking: list[str]) -> Results:
    search = Search("SRPO", rows, rows[0].name, breaking=breaking, front=front)
    return replace(sweep, searches=[search], objectives={SCORE: "max", DRIFT: "min"})


def example(sweep: Results) -> Results:
    rows = [trial("far", 0.9, 0.5, lr=3e-5), trial("worse", 0.5, 0.2, lr=1e-5), trial("near", 0.6, 0.1, lr=1e-6)]
    return searched(sweep, [*rows, trial("broken", 0.95, 0.4, lr=9e-5)], ["far", "near"], ["broken"])


def test_front_lists_its_trials_with_all_objectives_the_best_first(sweep: Results) -> None:
    found = example(sweep)
    table = front_table(found, found.searches[0])
    cells = [[row.cell(key).value for key in ("name", "lr", SCORE, DRIFT)] for row in table.rows]
    assert cells == [["far", 3e-5, 0.9, 0.5], ["near", 1e-6, 0.6, 0.1]]
    assert [round(row.cell(f"change of {SCORE}").value, 6) for row in table.rows] == [0.5, 0.2]


def test_chart_marks_the_front_the_chosen_trial_and_broken_limits(sweep: Results) -> None:
    found = example(sweep)
    (chart,) = front_charts(found, found.searches[0])
    assert {dot.name: (dot.style, dot.labelled) for dot in chart.dots} == {
        "far": ("best", True),
        "near": ("", True),
        "worse": ("faint", False),
        "broken": ("flagged", False),
    }
    assert {dot.name: (dot.x, dot.y) for dot in chart.dots}["near"] == (0.1, 0.6)


def test_front_is_on_the_page_and_in_the_files(sweep: Results) -> None:
    report = experiment_report(example(sweep))
    page = page_text(report)
    assert "Pareto front</h2>" in page
    assert "Trials that broke a limit (1) are not on it." in page
    rows = csv.DictReader(io.StringIO(file_text(report.files["runs.csv"])))
    on_front = {row["name"] if row["kind"] == "trial" else row["kind"]: row["front"] for row in rows}
    assert [on_front[name] for name in ("far", "near", "worse", "broken")] == ["True", "True", "False", "False"]
    assert on_front["base"] == ""
    results = json.loads(file_text(report.files["results.json"]))
    assert results["searches"][0]["front"] == ["far", "near"]
    assert results["objectives"] == {SCORE: "max", DRIFT: "min"}


def test_every_searched_arm_of_a_comparison_has_its_front(report: Results) -> None:
    first, second = (arm.name for arm in report.methods[:2])
    grid = [trial("grid_0", 0.9, 0.5, lr=3e-5), trial("grid_1", 0.6, 0.1, lr=1e-6)]
    drawn = [trial("drawn_0", 0.8, 0.4, lr=2e-5), trial("drawn_1", 0.7, 0.2, lr=1e-5)]
    searches = [
        Search(first, grid, "grid_0", drawn=False, front=["grid_0", "grid_1"]),
        Search(second, drawn, "drawn_0", front=["drawn_0", "drawn_1"]),
    ]
    found = replace(report, searches=searches, objectives={SCORE: "max", DRIFT: "min"})
    assert not found.is_sweep
    fronts = {section.title: section for section in experiment_report(found).sections if "pareto" in section.title}
    assert list(fronts) == [f"{first}: pareto front", f"{second}: pareto front"]
    tables = [part for section in fronts.values() for part in section.parts if isinstance(part, Table)]
    assert [[row.cell("name").value for row in table.rows] for table in tables] == [
        ["grid_0", "grid_1"],
        ["drawn_0", "drawn_1"],
    ]


def test_report_without_objectives_has_no_front(sweep: Results) -> None:
    assert front_section(sweep) is None
    report = experiment_report(sweep)
    assert "front" not in next(csv.reader(io.StringIO(file_text(report.files["runs.csv"]))))


def test_parameter_with_a_condition_is_drawn_for_the_trials_that_have_it(sweep: Results) -> None:
    rows = [trial(f"r{n}", 0.5 + n / 100, 0.1, query="relative", hinge=n / 4) for n in range(5)]
    plain = [trial(f"p{n}", 0.4 + n / 100, 0.1, query="plain") for n in range(4)]
    found = searched(sweep, [*rows, *plain], [], [])
    charts = {chart.title: chart for chart in slice_charts(found)}
    assert len(charts["query"].dots) == 9
    assert [(dot.name, dot.x) for dot in charts["hinge"].dots] == [(f"r{n}", n / 4) for n in range(5)]
    assert not charts["hinge"].names
    page_text(experiment_report(found))


def test_importance_of_a_parameter_with_a_condition_is_that_between_the_trials_that_have_it() -> None:
    """The hinge explains all of the relative trials' scores; plain trials differ by much more."""
    source = random.Random(0)
    hinges = [source.uniform(0, 2) for _ in range(30)]
    relative = [({"query": "relative", "hinge": hinge}, hinge) for hinge in hinges]
    plain = [({"query": "plain"}, source.gauss(50, 30)) for _ in range(30)]
    trials = [*relative, *plain]
    shares = variance_explained([params for params, _ in trials], [score for _, score in trials])
    assert (shares["hinge"] or 0) > 0.8
    few = [*relative[:8], *plain]
    assert variance_explained([params for params, _ in few], [score for _, score in few])["hinge"] is None

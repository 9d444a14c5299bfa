import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from srpo_ray.evaluation.numbers import number, param_text, param_titles, signed
from srpo_ray.evaluation.results import Results
from srpo_ray.reports.experiment import experiment_report
from srpo_ray.reports.files import csv_text, json_text
from srpo_ray.reports.sweep_table import runs_table
from srpo_ray.reports.terminal import terminal_table
from tests.unit.evaluation.conftest import with_rows

OBJECTIVE = "evaluator/held_out"


def printed(sweep: Results) -> list[str]:
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(terminal_table(runs_table(sweep)))
    return capture.get().splitlines()


def test_terminal_table_fits_and_keeps_its_numbers(sweep: Results):
    lines = printed(sweep)
    assert max(len(line.rstrip()) for line in lines) <= 120
    best = next(line for line in lines if " t00 " in line)
    cells = [
        "1",
        "t00",
        "detailed",
        "5-25",
        "0.9",
        "3.1e-6",
        "0.4870",
        "+0.0750",
        "0.5120",
        "0.0610",
        "0.9410",
    ]
    assert best.split() == [*cells, "done"]
    assert any(line.split()[:2] == ["-", "base"] for line in lines)
    assert any(line.rstrip().endswith(" stopped") for line in lines)
    assert [line.split()[1] for line in lines if line.rstrip().endswith(" hacking")] == ["t02"]


def test_terminal_table_shows_the_truth_that_the_best_trial_moved_most(sweep: Results):
    assert "detail" in "".join(printed(sweep))
    assert "saturation" not in "".join(printed(sweep))
    last = {**sweep.rows[1].history[-1], "truth/detail": 0.0312, "truth/saturation": 0.4}
    rows = [sweep.rows[0], replace(sweep.rows[1], history=[sweep.rows[1].history[0], last])]
    header = " ".join(printed(with_rows(sweep, rows)))
    assert "saturation" in header
    assert "detail " not in header.split("content")[0].split("saturation")[0].replace("detailed", "")


def test_long_and_hostile_names_stay_in_their_column(sweep: Results):
    rows = [
        replace(row, name=f"[red]{index}" + "x" * 80, status="failed: " + "y" * 80)
        for index, row in enumerate(sweep.rows)
    ]
    lines = printed(with_rows(sweep, rows))
    assert max(len(line) for line in lines) <= 120
    assert sum("[red]" in line and "0.4870" in line for line in lines) == 1


def test_many_parameters_do_not_widen_the_table(sweep: Results):
    rows = [
        replace(row, params={f"a.p{n}": index * n + 0.123 for n in range(9)}) for index, row in enumerate(sweep.rows)
    ]
    lines = printed(with_rows(sweep, rows))
    assert max(len(line) for line in lines) <= 120
    assert any("0.4870" in line and "+0.0750" in line and "0.9410" in line for line in lines)


def test_missing_metrics_leave_a_dash(sweep: Results):
    rows = [replace(row, history=[{"update": 60, OBJECTIVE: 0.1}]) for row in sweep.rows[1:3]]
    lines = printed(with_rows(sweep, rows))
    assert next(line for line in lines if "t00" in line).split()[-3:] == ["-", "-", "done"]


def test_csv_holds_every_run_parameter_and_metric(sweep: Results):
    lines = list(csv.DictReader(io.StringIO(csv_text(runs_table(sweep)), newline="")))
    assert [line["name"] for line in lines][:3] == ["best_seed_2", "t00", "best_seed_1"]
    assert lines[1]["rank"] == "1"
    assert lines[0]["rank"] == ""
    assert lines[1]["training.optimizer.lr"] == "3.1e-06"
    assert abs(float(lines[1][OBJECTIVE]) - 0.487) < 1e-9


def test_json_is_strict_and_whole(sweep: Results):
    rows = [replace(sweep.rows[1], history=[{"update": 0, OBJECTIVE: math.nan}], gallery=Path("g.png"))]
    text = json_text(experiment_report(with_rows(sweep, rows)).files["results.json"])
    assert "NaN" not in text
    stored = json.loads(text)
    (search,) = stored["searches"]
    assert search["rows"][0]["history"] == [{"update": 0, OBJECTIVE: None}]
    assert search["rows"][0]["gallery"] == "g.png"
    assert (search["arm"], search["chosen"]) == ("SRPO", "t00")


def test_numbers_are_short():
    texts = [number(value) for value in (None, 0.0, 0.71234, -0.05, 12.345, 1234.5, 3e-6, -2e7)]
    assert texts == ["-", "0.0000", "0.7123", "-0.0500", "12.35", "1234", "3e-6", "-2e7"]
    assert [signed(value) for value in (None, 0.05, -0.05, 0.0)] == ["-", "+0.0500", "-0.0500", "0.0000"]
    assert [param_text(value) for value in ([5, 25], (0.1, 0.25), ["a", "b"], None, True, 3, 1e-5)] == (
        ["5-25", "0.1-0.25", "a, b", "-", "True", "3", "1e-5"]
    )


def test_titles_are_the_ends_of_paths_unless_alike():
    paths = ["training.optimizer.lr", "a.scale", "b.scale", "c.hinge"]
    assert list(param_titles(paths).values()) == ["lr", "a.scale", "b.scale", "hinge"]

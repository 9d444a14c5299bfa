"""The four formats of each report show the same values."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from html import unescape
from typing import Any

import pytest
from rich.console import Console

from srpo_ray.evaluation.results import Results
from srpo_ray.reports.evaluation import evaluation_report
from srpo_ray.reports.experiment import experiment_report
from srpo_ray.reports.files import file_text
from srpo_ray.reports.html import page_text
from srpo_ray.reports.report import Report, Table
from srpo_ray.reports.terminal import terminal_table
from srpo_ray.reports.words import words_report
from srpo_ray.words.probe import WordProbe
from tests.unit.reports.test_evaluation import evaluation


@pytest.fixture
def reports(sweep: Results, report: Results, word_study: WordProbe) -> dict[str, Report]:
    return {
        "sweep": experiment_report(sweep),
        "comparison": experiment_report(report, None),
        "evaluation": evaluation_report(
            evaluation(), [], lambda prompt, sample, model: f"{prompt}_{sample}_{model}.png"
        ),
        "words": words_report(word_study, [], "srpo-ray words"),
    }


def file_name(prompt: int, sample: int, model: str) -> str:
    return f"{prompt}_{sample}_{model}.png"


def page_rows(page: str) -> Iterator[list[str]]:
    """Texts of the cells of every row of a page, without small print."""
    for row in re.findall(r"<tr class=\"[^\"]*\">(.*?)</tr>", page, re.DOTALL):
        cells = re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
        plain = (re.sub(r'<span class="note">.*?</span>', "", cell) for cell in cells)
        yield [unescape(re.sub(r"<[^>]+>", "", cell)) for cell in plain]


def lines_of(table: Table) -> list[str]:
    console = Console(width=400, color_system=None)
    with console.capture() as capture:
        console.print(terminal_table(table))
    return [" ".join(line.split()) for line in capture.get().splitlines()]


def tables(report: Report) -> list[Table]:
    return [part for section in report.sections for part in section.parts if isinstance(part, Table)]


NAMES = ["sweep", "comparison", "evaluation", "words"]


@pytest.mark.parametrize("name", NAMES)
def test_page_and_terminal_show_the_text_of_every_value(name: str, reports: dict[str, Report]) -> None:
    report = reports[name]
    shown = list(page_rows(page_text(report)))
    for table in tables(report):
        columns = table.chosen(table.page)
        for row in table.rows:
            assert [str(column.text(row.cell(column.key).value)) for column in columns] in shown
    for table in report.terminal:
        printed = lines_of(table)
        for row in table.rows:
            texts = [column.text(row.cell(column.key).value) for column in table.chosen(table.terminal)]
            matches = [line for line in printed if all(text in line for text in texts) and line.startswith(texts[0])]
            assert matches, texts


@pytest.mark.parametrize("name", NAMES)
def test_csv_holds_the_values_of_the_page(name: str, reports: dict[str, Report]) -> None:
    report = reports[name]
    written = [content for content in report.files.values() if isinstance(content, Table)]
    assert written
    for table in written:
        lines = list(csv.DictReader(io.StringIO(file_text(table), newline="")))
        assert len(lines) == len(table.rows)
        for line, row in zip(lines, table.rows, strict=True):
            for column in table.chosen(table.file):
                value = row.cell(column.key).value
                text = line[column.key].removeprefix("'") if isinstance(value, str) else line[column.key]
                assert text == ("" if value is None else str(value))


def numbers(value: Any) -> Iterator[float]:
    """Every number of plain values."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, int | float):
        yield float(value)


def test_json_holds_the_values_of_the_tables(reports: dict[str, Report]) -> None:
    sweep = json.loads(file_text(reports["sweep"].files["results.json"]))
    rows = [sweep["baseline_row"], *(row for group in (*sweep["searches"], *sweep["arms"]) for row in group["rows"])]
    lasts = {row["name"]: row["history"][-1] for row in rows}
    for line in csv.DictReader(io.StringIO(file_text(reports["sweep"].files["runs.csv"]), newline="")):
        assert float(line["evaluator/held_out"]) == lasts[line["name"]]["evaluator/held_out"]
    found = json.loads(file_text(reports["evaluation"].files["evaluation.json"]))
    (table,) = reports["evaluation"].terminal
    for each, row in zip(found["comparisons"], table.rows, strict=True):
        assert (each["mean"], each["difference"]) == (row.cell("mean").value, row.cell("difference").value)
        assert each["wins"]["rate"] == row.cell("win_rate").value
        assert each["difference_significant"] == (row.cell("difference").style == "clear")
    words = json.loads(file_text(reports["words"].files["words.json"]))["words"]
    for each, row in zip(words, reports["words"].files["words.csv"].rows, strict=True):
        assert (each["word"], each["score"]) == (row.cell("word").value, row.cell("score").value)
    known = set(numbers(json.loads(file_text(reports["comparison"].files["results.json"]))))
    base = next(row for row in reports["comparison"].files["arms.csv"].rows if row.cell("arm").value == "baseline")
    assert base.cell("evaluator/held_out mean").value in known

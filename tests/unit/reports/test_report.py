"""One report in four formats, and what a renderer does with hostile values."""

import csv
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from srpo_ray.reports.charts import HeatMap
from srpo_ray.reports.files import csv_text, json_text, write_report
from srpo_ray.reports.html import page_text, pieces
from srpo_ray.reports.report import (
    Alert,
    Bar,
    Bars,
    Card,
    Cards,
    Cell,
    Charts,
    Code,
    Column,
    Facts,
    Image,
    Images,
    Report,
    Row,
    Section,
    Strong,
    Table,
    Text,
)
from srpo_ray.reports.terminal import terminal_table

EVIL = "</title></script><script>alert('x')</script><img src=x onerror=\"alert(1)\"> {{ 777 * 11 }} & ' \""


def runs(names: list[str], scores: list[float | None]) -> Table:
    columns = [
        Column("name", "run", numeric=False, width=16),
        Column("score", text=lambda value: "-" if value is None else f"{value:.2f}"),
        Column("hidden"),
    ]
    rows = [Row({"name": name, "score": score, "hidden": 1}) for name, score in zip(names, scores, strict=True)]
    shown = ["name", "score"]
    return Table(columns, rows, head="name", title="runs", page=shown, terminal=shown, file=shown, sortable=True)


def report_of(table: Table) -> Report:
    files = {"runs.csv": table, "runs.json": {"runs": table}}
    return Report("title", "headline", [Section("Runs", [table])], files=files, terminal=[table])


class Cells(HTMLParser):
    """Texts of the table's cells, row by row, and all tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
        self.inside = tag == "td" or (self.inside and tag == "b")

    def handle_data(self, data: str) -> None:
        if self.inside and self.rows:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "td"


def printed(table: Table, width: int = 120) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(terminal_table(table))
    return capture.get()


def test_four_formats_show_the_same_rows(tmp_path: Path) -> None:
    names, scores = ["b", "a", "c"], [0.123456, None, -2.0]
    page = write_report(tmp_path, report_of(runs(names, scores)))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "runs.csv", "runs.json"]
    stored = json.loads((tmp_path / "runs.json").read_text())["runs"]
    lines = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert [row["name"] for row in stored] == [line["name"] for line in lines] == names
    assert [row["score"] for row in stored] == [float(line["score"]) if line["score"] else None for line in lines]
    texts = [["b", "0.12"], ["a", "-"], ["c", "-2.00"]]
    assert Cells(page.read_text()).rows[1:] == texts
    assert [line.split() for line in printed(runs(names, scores)).splitlines()[4:7]] == texts


def test_columns_that_a_format_leaves_out_are_in_none_of_its_rows() -> None:
    table = runs(["a"], [1.0])
    assert "hidden" not in csv_text(table) + page_text(report_of(table)).partition("</style>")[2] + printed(table)
    assert csv_text(replace(table, file=None)).splitlines()[0] == "name,score,hidden"
    assert csv_text(replace(table, file=["score", "name"])).splitlines() == ["score,name", "1.0,a"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_text_that_a_spreadsheet_would_run_is_quoted_and_a_number_is_not(start: str) -> None:
    text = csv_text(runs([f"{start}cmd|' /C calc'!A0", "plain = text"], [-1.5, 1.0]))
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[1] == [f"'{start}cmd|' /C calc'!A0", "-1.5"]
    assert rows[2] == ["plain = text", "1.0"]


def test_lines_inside_a_text_stay_in_its_cell() -> None:
    text = csv_text(runs(['a\r\nb\rc, "d"', "\n=e"], [1.0, 2.0]))
    names = [row[0] for row in csv.reader(io.StringIO(text, newline=""))]
    assert names == ["name", 'a\nb\nc, "d"', "'\n=e"]


def test_every_part_is_escaped() -> None:
    png = Image(b"\x89PNG", EVIL)
    chart = HeatMap(EVIL, EVIL, [EVIL], [EVIL], [[0.5]])
    table = Table([Column(EVIL, EVIL, hint=EVIL)], [Row({EVIL: Cell(EVIL, EVIL)})], head=EVIL, sortable=True)
    parts = [
        *(Text(EVIL, Strong(EVIL)), Alert(EVIL), Alert(EVIL, warning=True), Code(EVIL), Facts([(EVIL, EVIL)])),
        *(Cards([Card(EVIL, EVIL, EVIL)]), Bars([Bar(EVIL, 0.5, EVIL, EVIL, EVIL), Bar(EVIL, None, EVIL)])),
        *(Images(png, EVIL), Images(png), Charts([chart], legend={EVIL: 0}), table),
    ]
    text = page_text(Report(EVIL, EVIL, [Section(EVIL, parts)], subtitle=EVIL, summary=parts))
    tags = Cells(text).tags
    assert [tag for tag, _ in tags].count("script") == 1
    images = [attributes["src"] or "" for tag, attributes in tags if tag == "img"]
    assert len(images) == 4
    assert all(source.startswith("data:image/png;base64,") for source in images)
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert "8547" not in text.partition("</style>")[2]


def test_terminal_shows_names_as_they_are_and_no_control_character() -> None:
    text = printed(runs(["[red]x[/red]", "a\x1b[2Jb", "c\rd\n"], [1.0, 2.0, 3.0]))
    assert "[red]x[/red]" in text
    assert "\x1b" not in text
    assert "\r" not in text
    assert len(text.splitlines()) == len(printed(runs(["a", "b", "c"], [1.0, 2.0, 3.0])).splitlines())


def test_long_names_leave_numbers_whole_in_the_terminal() -> None:
    text = printed(runs(["x" * 200, "y"], [0.25, 0.5]), width=24)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 24
    assert "…" in text
    assert "0.25" in text


def test_numbers_are_whole_however_many_share_the_terminal_and_headings_wrap() -> None:
    keys = [f"a long heading {index}" for index in range(10)]
    columns = [Column("name", numeric=False), *(Column(key, text="{:.4f}".format) for key in keys)]
    rows = [Row({"name": "x" * 40, **{key: index / 8 for index, key in enumerate(keys)}})]
    text = printed(Table(columns, rows, head="name"), width=100)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    assert [f"{index / 8:.4f}" for index in range(10)] == re.findall(r"\d\.\d{4}", text)
    assert [line.split()[-1] for line in text.splitlines() if "heading" in line] == ["heading"]


def test_title_and_caption_that_are_longer_than_the_table_are_whole() -> None:
    words = [f"word{index}" for index in range(12)]
    table = replace(runs(["a"], [1.0]), title=" ".join(words), caption=" ".join(words))
    assert [printed(table).count(word + " ") + printed(table).count(word + "\n") for word in words] == [2] * 12


def test_significant_numbers_have_a_star_in_the_terminal_and_are_bold_on_the_page() -> None:
    columns = [Column("name", numeric=False), Column("gap", text="{:+.1f}".format, noted=True)]
    rows = [
        Row({"name": "a", "gap": Cell(1.0, "± 0.1", "clear")}),
        Row({"name": "b", "gap": Cell(0.1, "± 0.2", "unclear")}),
    ]
    table = Table(columns, rows, head="name")
    lines = printed(table).splitlines()
    assert [line.split() for line in lines if "±" in line] == [
        ["a", "+1.0", "±", "0.1", "*"],
        ["b", "+0.1", "±", "0.2"],
    ]
    page = page_text(report_of(table))
    assert '<td class=" clear">+1.0<span class="note">± 0.1</span></td>' in page
    assert csv_text(table).splitlines() == ["name,gap", "a,1.0", "b,0.1"]


def test_json_is_strict_and_keeps_every_script() -> None:
    text = json_text({"a": math.nan, "b": [math.inf, 1], "c": "一只猫", 1: Path("x")})
    assert "NaN" not in text
    assert "一只猫" in text
    assert json.loads(text) == {"a": None, "b": [None, 1], "c": "一只猫", "1": "x"}


def test_name_with_an_undecodable_byte_is_written_as_its_escape(tmp_path: Path) -> None:
    """As a path that is no UTF-8 comes from the file system."""
    page = write_report(tmp_path, report_of(runs(["a\udcff"], [1.0])))
    assert "a\\udcff" in page.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "runs.json").read_text(encoding="utf-8"))["runs"][0]["name"] == "a\udcff"


def test_page_states_that_it_loads_nothing(tmp_path: Path) -> None:
    page = write_report(tmp_path, report_of(runs(["a"], [1.0]))).read_text()
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|url\(|@import|<link|\bfetch\(|import\s*\(", page)
    assert "prefers-color-scheme: dark" in page


def test_headings_break_at_the_punctuation_of_names_and_not_inside_a_number() -> None:
    assert pieces("evaluator/held_out") == ["evaluator/", "held_", "out"]
    assert pieces("to 0.5500") == ["to 0.5500"]
    assert pieces("training.optimizer.lr") == ["training.", "optimizer.", "lr"]

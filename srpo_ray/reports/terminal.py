"""Tables of a report for the terminal."""

import re
import sys
from textwrap import wrap

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText

from srpo_ray.reports.report import NOTHING, Cell, Column, Report, Row, Table

WIDTH = 120
"""Columns in a file or a pipe, where rich would print 80, too few for the tables."""
_STYLES = {
    "failed": "red",
    "winner": "bold green",
    "alarmed": "dark_orange",
    "reference": "bold",
    "base": "cyan",
    "repeat": "dim",
    "ablation": "dim",
}
"""Kind of a row -> how it is printed, the first that fits."""
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def print_report(report: Report) -> None:
    """Print the tables that the report has for the terminal."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for table in report.terminal:
        console.print(terminal_table(table))


def terminal_table(table: Table) -> RichTable:
    """The table for rich, with the columns that it has for the terminal.

    Text that is too long for its column ends in an ellipsis; a number behind which ` *` stands is significant.
    """
    columns = table.chosen(table.terminal)
    shown = RichTable(title=_text(table.title, wraps=True), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    shown.caption = _text(table.caption, wraps=True) if table.caption else None
    texts = [_column_texts(column, table) for column in columns]
    for column, cells in zip(columns, texts, strict=True):
        longest = max(map(len, cells), default=0)
        # Numbers are never cut: where rich runs out of room it takes it from the columns that may wrap, the names'.
        least = longest if column.numeric else 2
        justify = "right" if column.numeric else "left"
        heading = _text(_wrapped(column.heading, longest))
        shown.add_column(heading, justify=justify, no_wrap=column.numeric, min_width=least, max_width=column.width)
    for row, cells in zip(table.rows, zip(*texts, strict=True), strict=True):
        shown.add_row(*map(_text, cells), style=_style(row))
    return shown


def _wrapped(heading: str, width: int) -> str:
    """A heading in lines no longer than the column's cells, or than its longest word."""
    return "\n".join(wrap(heading, max([width, *map(len, heading.split())]), break_on_hyphens=False))


def _column_texts(column: Column, table: Table) -> list[str]:
    cells = [row.cell(column.key) for row in table.rows]
    starred = any(cell.style == "clear" for cell in cells)
    return [_cell_text(column, cell, starred) for cell in cells]


def _cell_text(column: Column, cell: Cell, starred: bool) -> str:
    note = f" {cell.note}" if column.noted and cell.note else ""
    star = (" *" if cell.style == "clear" else "  ") if starred else ""
    text = (column.text(cell.value) or NOTHING).replace("\n", " ")
    return f"{text}{note}{star}"


def _style(row: Row) -> str:
    kinds = row.style.split()
    return next((style for kind, style in _STYLES.items() if kind in kinds), "")


def _text(content: str, *, wraps: bool = False) -> RichText:
    """The content as it is: no markup of rich, no control character that moves the cursor or changes colours."""
    shown = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", content)
    return RichText(shown) if wraps else RichText(shown, overflow="ellipsis", no_wrap=True)

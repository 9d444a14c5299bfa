"""Files of a report: CSV from its tables, JSON from plain values, and the page."""

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srpo_ray.files import write_text
from srpo_ray.reports.html import page_text
from srpo_ray.reports.report import Report, Table

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\n")


def write_report(folder: Path, report: Report) -> Path:
    """Write the page and the files beside it, and return the path of the page.

    Args:
        folder: Where to write; made if needed.
        report: What to write.

    Raises:
        ValueError: If the folder cannot be written.
    """
    texts = {name: file_text(content) for name, content in report.files.items()} | {report.page: page_text(report)}
    try:
        for name, text in texts.items():
            _write(folder / name, text)
    except OSError as error:
        raise ValueError(
            f"expected a folder where the report can be written, got {folder} ({error}); free it or name another"
        ) from error
    return folder / report.page


def file_text(content: Any) -> str:
    """A `Table` as CSV, plain values as JSON."""
    return csv_text(content) if isinstance(content, Table) else json_text(content)


def _write(path: Path, text: str) -> None:
    """Write a text; a part of a name that is no text, such as an undecodable byte of a path, as its escape."""
    write_text(path, text.encode("utf-8", "backslashreplace").decode("utf-8"))


def csv_text(table: Table) -> str:
    """The table as CSV: one line per row, values and not their texts, missing values empty.

    A text that a spreadsheet would take for a formula has an apostrophe before it.
    """
    columns = table.chosen(table.file)
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([_csv_value(column.key) for column in columns])
    writer.writerows([_csv_value(row.cell(column.key).value) for column in columns] for row in table.rows)
    return file.getvalue()


def _csv_value(value: Any) -> Any:
    if not isinstance(value, str):
        return "" if value is None else value
    # The csv module quotes only the end of line that it writes itself, so the others become that.
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def json_text(values: Any) -> str:
    """Plain values as strict JSON; NaN and infinities become null, a `Table` the list of its rows."""
    return json.dumps(jsonable(values), indent=2, ensure_ascii=False) + "\n"


def jsonable(value: Any) -> Any:
    """Convert a value to what JSON can hold: NaN and infinities to null, a table to its rows, other objects to text."""
    if isinstance(value, Table):
        columns = value.chosen(value.file)
        return [{column.key: jsonable(row.cell(column.key).value) for column in columns} for row in value.rows]
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)

"""A report as an HTML page that needs nothing else: no network, no other file."""

import base64
import re
from pathlib import Path
from typing import Any

import jinja2

from srpo_ray.reports.drawings import color_class, draw
from srpo_ray.reports.report import Image, Report, Strong, Text

_TEMPLATES = Path(__file__).with_name("templates")
_DENSE, _TIGHT = 13, 17
"""Columns from which a table is set in smaller, and in the smallest print."""
_SHORT = 12
"""Most characters of a text that stays on one line, such as `1.2e-6` and `5-25`, which have hyphens."""


def page_text(report: Report) -> str:
    """The report as the text of one HTML file; all texts of the report are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    filters: dict[str, Any] = {each.__name__: each for each in (draw, data_uri, sort_key, color_class, pieces)}
    tests: dict[str, Any] = {"strong": is_strong, "image": is_image, "spans": is_text}
    values: dict[str, Any] = {"kind": kind_of, "dense": _DENSE, "tight": _TIGHT, "short": _SHORT}
    environment.filters.update(filters)
    environment.tests.update(tests)
    environment.globals.update(values)
    return environment.get_template("page.html").render(report=report)


def kind_of(part: object) -> str:
    """The name of the part's macro in the templates."""
    return type(part).__name__.lower()


def is_strong(span: object) -> bool:
    """True for a span that stands out."""
    return isinstance(span, Strong)


def is_image(value: object) -> bool:
    """True for an image in a cell."""
    return isinstance(value, Image)


def is_text(value: object) -> bool:
    """True for a text of several spans in a cell."""
    return isinstance(value, Text)


def data_uri(image: Image) -> str:
    """The image as the text of a data URI."""
    return f"data:image/png;base64,{base64.b64encode(image.png).decode()}"


def pieces(heading: str) -> list[str]:
    """Parts of a heading between which it may break: behind the punctuation of dotted paths and metric names."""
    return re.split(r"(?<=[/._-])(?!\d|$)", heading)


def sort_key(value: Any) -> str:
    """The key by which the page's script sorts a cell: a number or a text; of a list, the first item."""
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return "" if value is None else str(value)

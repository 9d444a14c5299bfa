"""A report as an HTML page that needs nothing else: no network, no other file."""

import base64
import re
from functools import partial
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
    environment.filters |= {each.__name__: each for each in (draw, data_uri, sort_key, color_class, pieces)}
    tests = {"strong": Strong, "image": Image, "spans": Text}
    environment.tests |= {name: partial(_is, kind) for name, kind in tests.items()}
    environment.globals |= {
        "kind": lambda part: type(part).__name__.lower(),
        "dense": _DENSE,
        "tight": _TIGHT,
        "short": _SHORT,
    }
    return environment.get_template("page.html").render(report=report)


def kind_of(part: object) -> str:
    """The name of the part's macro in the templates."""
    return type(part).__name__.lower()


def _is(kind: type, value: object) -> bool:
    return isinstance(value, kind)


def data_uri(image: Image) -> str:
    """The image as the text of a data URI."""
    return f"data:image/png;base64,{base64.b64encode(image.png).decode()}"


def pieces(heading: str) -> list[str]:
    """Parts of a heading between which it may break: behind the punctuation of dotted paths and metric names."""
    return re.split(r"(?<=[/._-])", heading)


def sort_key(value: Any) -> str:
    """What the page's script sorts a cell by: a number or a text; a list by its first item."""
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return "" if value is None else str(value)

"""HTML pages that need nothing else: no network, no other file."""

import base64
from pathlib import Path
from typing import Any

import jinja2

from srpo_ray.evaluation.table import number, signed, spread_text

_TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, folder: Path | None = None, **values: Any) -> str:
    """A page from a template; all share styles and script.

    Args:
        template: Name of its file.
        folder: Where else to look for templates, before this package's own.
        values: What the template shows; one that it names and does not get is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, _TEMPLATES] if folder else _TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "signed": signed, "spread": spread_text}
    return environment.get_template(template).render(**values)


def embedded(image: Path) -> str:
    """An image file as the text of a data URI."""
    return base64.b64encode(image.read_bytes()).decode()

"""HTML pages that need nothing else: no network, no other file."""

import base64
from pathlib import Path
from typing import Any

import jinja2

from srpo_ray.evaluation.numbers import number, signed, spread_text

_TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, **values: Any) -> str:
    """A page from a template; all share styles and script.

    Args:
        template: Name of its file.
        values: What the template shows; one that it names and does not get is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "signed": signed, "spread": spread_text}
    return environment.get_template(template).render(**values)


def embedded(picture: Path) -> str:
    """A picture file as the text of a data URI."""
    return base64.b64encode(picture.read_bytes()).decode()

"""Conversion of pydantic's errors to actionable messages."""

import difflib
import re
from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import Tag
from pydantic_core import ErrorDetails

from srpo_ray.config.base import Section

_RENAMED = {
    "evaluation.alarm": "hacking",
    "rewards.pool.gradient_dtype": "wire_dtype",
    "rewards.pool.max_in_flight": "max_ongoing_requests",
    "rewards.pool.scale_down_s": "downscale_delay_s",
    "rewards.pool.scale_up_queue": "upscale_queue_length",
    "rewards.pool.scale_up_s": "upscale_delay_s",
    "sweep": "experiment",
    "study": "experiment",
    "experiment.methods": "arms",
    "experiment.arms.tune": "grid",
    "experiment.ablated": "reference_arm",
    "experiment.comparisons": "ablations",
    "experiment.repeat_seeds": "seeds",
    "experiment.space": "arms[0].space",
    "experiment.num_samples": "search.num_samples",
    "experiment.searcher": "search.searcher",
    "experiment.scheduler": "search.scheduler",
    "experiment.seed": "search.seed",
    "experiment.tuning_seed": "seed` in the file of `base",
}
"""Dotted path that was renamed, without list indices and with the prefix of its config -> new key."""
_HINTS = {
    "algorithm.type=step_preference": (
        "step-level preferences are `type: policy_gradient` with `surrogate.type: pair` and `plan.type: branch`, as in"
        " `configs/algorithms/spo.yaml`"
    ),
    "algorithm.source=file": (
        "set `source` to `pairs`, `labels` or `captions` by the kind of the rows, and the file in `data.pairs`"
    ),
}
"""`path=value` that papers or other frameworks use -> settings to use here."""


def first_causes(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Drop the errors of lists that are too short only because a value in them is invalid."""
    locations = [details["loc"] for details in errors]
    return [
        details
        for details in errors
        if details["type"] != "too_short"
        or not any(loc[: len(details["loc"])] == details["loc"] != loc for loc in locations)
    ]


def describe(kind: type[Section], details: ErrorDetails) -> str:
    """Format one validation error as `path: expected ..., got ...; what to do`.

    Args:
        kind: Validated config class.
        details: Error of pydantic.
    """
    path, known = locate(kind, details["loc"])
    if details["type"] == "extra_forbidden":
        renamed = _RENAMED.get(kind.prefix + re.sub(r"\.\d+\b", "", path))
        cure = f"it is now called `{renamed}`" if renamed else _suggest(str(details["loc"][-1]), known)
        return f"{path}: expected one of {', '.join(sorted(known))}; got an unknown key; {cure}"
    if details["type"] == "union_tag_invalid":
        context = details.get("ctx", {})
        types = [name.strip("'") for name in context["expected_tags"].split(", ")]
        hint = _HINTS.get(f"{path}.type={context['tag']}")
        cure = hint or _suggest(context["tag"], types, "choose one of them")
        return f"{path}.type: expected one of {', '.join(types)}; got {context['tag']!r}; {cure}"
    if details["type"] == "missing":
        return f"{path}: expected a value, got none; add it"
    if details["type"] == "value_error":
        message = details["msg"].removeprefix("Value error, ")
        return f"{path}: {message}" if path else message
    if details["type"] == "string_type" and isinstance(details["input"], bool | int | float | None):
        value = details["input"]
        found = (
            "null" if value is None else f"the {'truth value' if value is True or value is False else 'number'} {value}"
        )
        return (
            f"{path}: expected text, got {found}, as YAML reads it without quotes; quote it, such as '1e5' in a"
            " file and \"'1e5'\" on a command line"
        )
    expected = details["msg"].replace("Input should", "expected to")
    cure = _HINTS.get(f"{path}={details['input']}", "give such a value")
    return f"{path}: {expected}; got {details['input']!r}; {cure}"


def _suggest(word: str, known: Iterable[str], otherwise: str = "remove it") -> str:
    close = difflib.get_close_matches(word, sorted(known), n=1)
    return f"did you mean `{close[0]}`?" if close else otherwise


def locate(kind: type[Section], location: Iterable[int | str]) -> tuple[str, set[str]]:
    """Convert the location of a pydantic error to a dotted path.

    Args:
        kind: Validated config class.
        location: Keys and list indices. For a value of a union, the location also contains the tag of the kind or the
            `type` of the section, which is not a key of the config.

    Returns:
        Dotted path, and all keys of the section with its last key; empty outside a section.
    """
    path: list[str] = []
    known: set[str] = set()
    here: Any = kind
    for key in location:
        sections = _sections(here)
        chosen = {section.model_fields["type"].default: section for section in sections if len(sections) > 1}
        if key in chosen:
            here = chosen[key]
            continue
        tagged = _tagged(here)
        if key in tagged:
            here = tagged[key]
            continue
        path.append(str(key))
        fields = sections[0].model_fields if len(sections) == 1 else {}
        known = set(fields)
        here = fields[str(key)].annotation if str(key) in fields else _element(here)
    return ".".join(path), known


def _sections(annotation: Any) -> list[type[Section]]:
    """List the config classes that a value with this annotation can have."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return [section for part in get_args(annotation) for section in _sections(part)]
    return []


def _tagged(annotation: Any) -> dict[int | str, Any]:
    """Return the kinds of a tagged union by their tags; empty for other annotations."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    marks = [(mark.tag, part) for part in parts for mark in getattr(part, "__metadata__", ()) if isinstance(mark, Tag)]
    # The union is inside another one if the value may be unset.
    unions = [get_args(part)[0] for part in parts if get_origin(part) is Annotated]
    return dict(marks) | {tag: kind for union in unions for tag, kind in _tagged(union).items()}


def _element(annotation: Any) -> Any:
    """Return the annotation of the elements of a tuple or mapping; None for other annotations."""
    held = [part for part in get_args(annotation) if part is not Ellipsis]
    return held[-1] if held else None

"""Search spaces whose dimensions have conditions: order, condition and examples of a dimension."""

from collections.abc import Mapping
from typing import Any

from srpo_ray.config.search import SearchDimension


def allowed_values(space: Mapping[str, SearchDimension], path: str) -> dict[str, list[Any]]:
    """Values of other dimensions with which a dimension of a space is searched.

    Args:
        space: Dotted config path -> dimension.
        path: Path of the dimension.

    Raises:
        ValueError: If its condition names no `choice` of the space, or a value that is not among the choices.
    """
    allowed = {}
    for other, wanted in space[path].when.items():
        choices = space[other].choice if other in space else None
        if choices is None:
            known = ", ".join(name for name, each in space.items() if each.choice is not None and name != path)
            raise ValueError(
                f"expected `when` of {path} to name a `choice` of the same space ({known or 'there is none'}), got"
                f" {other!r}; correct the path, or give that key a `choice`"
            )
        # A list that is itself a choice is one value.
        values = wanted if wanted not in choices and isinstance(wanted, list) else [wanted]
        if not values or any(value not in choices for value in values):
            raise ValueError(
                f"expected `when` of {path} to give values among the choices of {other} ({list(choices)}), got"
                f" {wanted!r}; correct the value, or add it to the choices"
            )
        allowed[other] = values
    return allowed


def conditions_first(space: Mapping[str, SearchDimension]) -> list[str]:
    """Order the dimensions of a space so that each comes after those that its condition names.

    Raises:
        ValueError: If conditions name each other in a circle.
    """
    ordered: list[str] = []
    waiting = list(space)
    while waiting:
        ready = [path for path in waiting if all(other in ordered for other in space[path].when)]
        if not ready:
            raise ValueError(
                f"expected conditions without a circle, got `when` of {', '.join(waiting)}, each of which waits for"
                " another; remove one of them"
            )
        ordered += ready
        waiting = [path for path in waiting if path not in ready]
    return ordered


def searched_values_of(space: Mapping[str, SearchDimension], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the values of dimensions whose condition does not hold.

    Args:
        space: Dotted config path -> dimension.
        drawn: Dotted config path -> value, for all or some of the dimensions.
    """
    kept: dict[str, Any] = {}
    for path in conditions_first(space):
        allowed = allowed_values(space, path)
        if path in drawn and all(other in kept and kept[other] in values for other, values in allowed.items()):
            kept[path] = drawn[path]
    return {path: kept[path] for path in drawn if path in kept}


def example_trial(space: Mapping[str, SearchDimension], path: str, value: Any) -> dict[str, Any]:
    """Example values of a trial with one given value.

    Args:
        space: Dotted config path -> dimension.
        path: Path of the value.
        value: The value.

    Returns:
        The value, values of other dimensions with which it is searched, and values of all dimensions that are searched
        because of these.
    """
    values: dict[str, Any] = {}
    waiting = [path]
    while waiting:
        allowed = allowed_values(space, waiting.pop())
        waiting += [other for other in allowed if other not in values]
        values = {other: choices[0] for other, choices in allowed.items()} | values
    return with_conditional(space, {**values, path: value})


def with_conditional(space: Mapping[str, SearchDimension], values: Mapping[str, Any]) -> dict[str, Any]:
    """Add an example of each missing dimension that is searched because of other values.

    Args:
        space: Dotted config path -> dimension.
        values: Dotted config path -> value, for some of the dimensions.
    """
    found = dict(values)
    for path in conditions_first(space):
        allowed = allowed_values(space, path)
        if allowed and all(other in found and found[other] in choices for other, choices in allowed.items()):
            found.setdefault(path, space[path].examples[0])
    return found

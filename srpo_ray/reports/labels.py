"""Places for names in a chart where they lie on nothing else."""

from collections.abc import Sequence

from srpo_ray.reports import svg

_CHARACTER_WIDTH, _BOLD_CHARACTER_WIDTH = 6.6, 7.6
_LONGEST = 24
_NEAR = 90

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


def around(x: float, y: float, reach: float) -> Box:
    """The square around a point."""
    return (x - reach, y - reach, x + reach, y + reach)


def beside(name: str, center: svg.Point, taken: list[Box], ends: svg.Point, css: str) -> str:
    """A point's name at the first of the places around it where nothing else is.

    Args:
        name: The name, cut where it is very long.
        center: The point in pixels.
        taken: What other marks and names cover; the name's own place is added.
        ends: Left and right pixel that the name stays between if it can.
        css: Class of the text; one with `best` is bold.
    """
    name = shortened(name)
    width = (_BOLD_CHARACTER_WIDTH if "best" in css else _CHARACTER_WIDTH) * len(name)
    x, y = center
    places = [(x + 12, y + 4), (x - 10 - width, y + 4), (x - width / 2, y - 12), (x - width / 2, y + 20)]
    places += [(x + 8, y - 9), (x - 8 - width, y - 9), (x + 8, y + 17), (x - 8 - width, y + 17)]
    boxes = [(left, base - 11, left + width, base + 3) for left, base in places]
    inside = [box for box in boxes if box[0] >= ends[0] and box[2] <= ends[1]]
    free = [box for box in inside if not any(_overlap(box, other) for other in taken)]
    box = (free or inside or boxes)[0]
    taken.append(box)
    return svg.text(box[0], box[3] - 3, name, css)


def at_ends(ends: Sequence[tuple[float, float, str]]) -> list[str]:
    """Names beside the ends of curves, `(x, y, name)`, pushed down where they would overlap one above."""
    labels: list[str] = []
    placed: list[svg.Point] = []
    for left, top, name in sorted(ends, key=lambda end: end[1]):
        near = [bottom for other, bottom in placed if abs(other - left) < _NEAR]
        bottom = max([top + 4, *(above + 14 for above in near)])
        placed.append((left, bottom))
        labels.append(svg.text(left + 8, bottom, shortened(name), "label"))
    return labels


def shortened(name: str) -> str:
    """A name cut to the length that a chart has room for."""
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]

"""Charts as plain values: curves, scatter plots, intervals and heat maps; `drawings` draws them."""

from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One curve."""

    name: str
    pieces: Sequence[Sequence[Point]]
    """Points in runs without a gap."""
    style: str = ""
    """`best` (strong) or `alarmed` among light curves; `thin` or `strong` where curves have colours."""
    hint: str = ""
    """Text under the pointer."""
    color: int | None = None
    """Number of the colour; None draws in the page's own."""
    labelled: bool = False
    """Writes the name at the curve's end."""
    ended: bool = False
    """Marks the curve's end with a dot."""


@dataclass(frozen=True)
class Curves:
    """Values over updates or over cost."""

    title: str
    description: str
    """For screen readers."""
    lines: Sequence[Line]
    baseline: float | None = None
    """Value of the baseline, dashed."""
    target: float | None = None
    """Value to reach, dotted."""
    log: bool = False
    """Makes the horizontal axis logarithmic."""
    x_title: str = ""
    size: str = "small"


@dataclass(frozen=True)
class Dot:
    """One point of a scatter plot."""

    x: float
    y: float
    name: str
    hint: str
    color: int = 0
    style: str = ""
    """Any of `best`, `faint`, `alarmed`, `seed` (small)."""
    labelled: bool = False


@dataclass(frozen=True)
class Scatter:
    """Points in a plane."""

    title: str
    description: str
    dots: Sequence[Dot]
    baseline: float | None = None
    """Value of the baseline on the vertical axis, dashed."""
    origin: bool = False
    """Marks zero on the horizontal axis with a dashed line."""
    baseline_hint: str = ""
    """Makes the baseline a point of its own at zero, with this text under the pointer."""
    worse: str = ""
    """`low` or `high`: the side of the baseline that, to the right of zero, is shaded as reward hacking."""
    front: Sequence[Point] = ()
    """Points that a line joins."""
    names: Sequence[str] = ()
    """Makes the horizontal axis one of names; `Dot.x` then counts in them."""
    log: bool = False
    means: bool = False
    """Marks the mean of the points with equal x with a short bar."""
    x_title: str = ""
    y_title: str = ""
    size: str = "small"


@dataclass(frozen=True)
class Interval:
    """A value with its interval."""

    name: str
    value: float
    low: float
    high: float
    hint: str
    color: int | None = 0
    """None leaves the point hollow: not significant."""


@dataclass(frozen=True)
class Intervals:
    """Values with intervals below each other, on one axis."""

    title: str
    description: str
    rows: Sequence[Interval]
    mark: float = 0.0
    """Value without an effect, dashed."""
    share: bool = False
    """Makes the axis one of shares, from 0% to 100%."""


@dataclass(frozen=True)
class HeatMap:
    """Correlations of R rows with C columns as colours."""

    title: str
    description: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]
    """`[R][C]` in [-1, 1]."""


Chart = Curves | Scatter | Intervals | HeatMap

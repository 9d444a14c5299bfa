"""The few SVG parts that the report's figures are made of.

Colours are CSS classes, so that one drawing fits a light and a dark page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A line from values to pixels."""

    low: float
    high: float
    start: float
    """Pixel of `low`."""
    end: float
    """Pixel of `high`."""
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixel of a value."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values on the axis; on a logarithmic one, powers of ten with 2 and 5 if few."""
        if self.log:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            decades = [10.0**exponent for exponent in exponents]
            every = [factor * decade for decade in decades for factor in (1, 2, 5)]
            chosen = decades if len(exponents) > 4 else every
            return [tick for tick in chosen if self.low * 0.999 <= tick <= self.high * 1.001]
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = max(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power <= rough * 1.25)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def axis_over(values: Sequence[float], start: float, end: float, *, log: bool = False, room: float = 0.08) -> Axis:
    """An axis that holds all values with some room at both ends; equal values get a small range around them.

    Args:
        values: Finite values, at least one; positive if `log`.
        start: Pixel of the low end.
        end: Pixel of the high end.
        log: Logarithmic.
        room: Share of the range that is added at each end.
    """
    low, high = min(values), max(values)
    if log:
        extra = (high / low) ** room if high > low else 2.0
        return Axis(low / extra, high * extra, start, end, log=True)
    extra = (high - low) * room if high - low > 1e-9 * max(abs(low), abs(high)) else max(abs(low) * 0.1, 0.01)
    return Axis(low - extra, high + extra, start, end)


def tick_label(value: float) -> str:
    """A short number: `0.25`, `-1.5`, `3e-6`."""
    if abs(value) < 1e-12:
        return "0"
    mantissa, letter, exponent = f"{value:.4g}".partition("e")
    return mantissa + (f"e{int(exponent)}" if letter else "")


def drawing(width: float, height: float, parts: Sequence[str], description: str, *, fixed: bool = False) -> str:
    """A whole SVG element; `description` is for screen readers. It scales with its place unless `fixed`."""
    size = f' style="width:{width:g}px"' if fixed else ""
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(description)}"{size}>'
    return head + "".join(parts) + "</svg>"


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def text(x: float, y: float, content: str, css: str = "", anchor: str = "start") -> str:
    """A line of text; `anchor` is start, middle or end."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(content)}</text>'


def dot(x: float, y: float, radius: float, css: str, tooltip: str) -> str:
    """A round mark that explains itself under the pointer."""
    circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{css}">'
    return f"{circle}<title>{escape(tooltip)}</title></circle>"


def polyline(points: Sequence[Point], css: str, tooltip: str = "") -> str:
    """A line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" class="{css}"><title>{escape(tooltip)}</title></polyline>'


def rectangle(x: float, y: float, width: float, height: float, css: str) -> str:
    """A filled rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{css}"/>'


def cell(x: float, y: float, width: float, height: float, css: str, *, opacity: float, tooltip: str) -> str:
    """A rectangle of a heat map; `opacity` in [0, 1] is how much of its colour shows."""
    shape = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3"'
    return f'{shape} class="{css}" fill-opacity="{opacity:.3f}"><title>{escape(tooltip)}</title></rect>'


def slanted(x: float, y: float, content: str, css: str = "") -> str:
    """A line of text that rises to the right, for names over narrow columns."""
    return f'<text transform="translate({x:.1f} {y:.1f}) rotate(-40)" class="{css}">{escape(content)}</text>'


def grid(x: Axis, y: Axis, x_ticks: Sequence[tuple[float, str]] | None = None) -> list[str]:
    """Grid lines and tick labels of a plot; `x_ticks` are (value, label) for axes of names."""
    parts = []
    for tick in y.ticks(4):
        parts.append(line(x.start, y(tick), x.end, y(tick), "grid"))
        parts.append(text(x.start - 6, y(tick) + 4, tick_label(tick), "tick", "end"))
    for value, label in x_ticks if x_ticks is not None else [(tick, tick_label(tick)) for tick in x.ticks()]:
        parts.append(text(x(value), y.start + 16, label, "tick", "middle"))
    parts.append(line(x.start, y.start, x.end, y.start, "axis"))
    return parts

"""A report as plain values: a headline and sections of tables, charts, images and texts, for every renderer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from srpo_ray.reports.charts import Chart

NOTHING = "-"
"""Text of a missing value."""


class Strong(str):
    """A span of a text that stands out."""

    __slots__ = ()


@dataclass(frozen=True, init=False)
class Text:
    """A paragraph of plain and `Strong` spans."""

    spans: tuple[str, ...]
    style: str
    """`hint` for an explanation, `lead` for a first sentence, `marked` for a line about a run with a warning."""

    def __init__(self, *spans: str, style: str = "hint") -> None:
        object.__setattr__(self, "spans", spans)
        object.__setattr__(self, "style", style)

    def __str__(self) -> str:
        return "".join(self.spans)


@dataclass(frozen=True)
class Alert:
    """A note that stands out; a warning has a colour too."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Code:
    """A command or a config, to be copied."""

    text: str


@dataclass(frozen=True)
class Facts:
    """Names and what belongs to each."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Card:
    """A number to show first, under its title and over its small print."""

    title: str
    value: str
    note: str


@dataclass(frozen=True)
class Cards:
    """Numbers side by side."""

    cards: Sequence[Card]


@dataclass(frozen=True)
class Bar:
    """A share in [0, 1] as a bar; None where it is unknown, which `text` then explains."""

    name: str
    share: float | None
    text: str
    note: str = ""
    hint: str = ""
    faint: bool = False


@dataclass(frozen=True)
class Bars:
    """Bars of one scale below each other."""

    bars: Sequence[Bar]


@dataclass(frozen=True)
class Image:
    """An image by the bytes of its PNG file, and a description for who does not see it."""

    png: bytes = field(repr=False)
    description: str


@dataclass(frozen=True)
class Images:
    """A grid of images, shown wide; folded away behind its title where that is given."""

    image: Image
    folded: str = ""


@dataclass(frozen=True)
class Charts:
    """Charts side by side: `small` ones three in a row, `medium` ones two, `wide` ones alone."""

    charts: Sequence[Chart]
    size: str = "small"
    legend: Mapping[str, int] = field(default_factory=dict)
    """Name -> number of its colour."""


def plain(value: Any) -> str:
    """The value's own text, or a dash for None."""
    return NOTHING if value is None else str(value)


@dataclass(frozen=True)
class Column:
    """One column of a table: its key in files, its title for people, and the text of its values."""

    key: str
    title: str = ""
    """The key where it is empty."""
    text: Callable[[Any], str] = plain
    numeric: bool = True
    hint: str = ""
    """Explanation of the title, such as the whole name of what it shortens."""
    width: int | None = None
    """Most characters in the terminal."""
    noted: bool = False
    """Shows notes in the terminal too, behind the values."""

    @property
    def heading(self) -> str:
        """The title for people."""
        return self.title or self.key


@dataclass(frozen=True)
class Cell:
    """A value with small print; also a `Text` or an `Image` on pages."""

    value: Any
    note: str = ""
    style: str = ""
    """`clear` for a significant difference, `unclear` for one that is not, or empty."""
    place: int | None = None
    """Place of the cell where a page sorts by its column; None sorts by the value."""


@dataclass(frozen=True)
class Row:
    """A row by column key; `style` names its kinds: `winner`, `base`, `reference`, `flagged`, `failed`, ..."""

    cells: Mapping[str, Any]
    style: str = ""

    def cell(self, key: str) -> Cell:
        """The cell of a column; one without a value if the row has none."""
        value = self.cells.get(key)
        return value if isinstance(value, Cell) else Cell(value)


@dataclass(frozen=True)
class Table:
    """Rows with one value per column, from which every format is made, so that formats cannot disagree.

    A format shows the columns whose keys are given for it, in that order.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]
    head: str
    """Key of the column that names the rows."""
    title: str = ""
    """Stands above the table in the terminal, where no heading does."""
    caption: str = ""
    """Stands below the table in the terminal."""
    page: Sequence[str] | None = None
    """Keys of the columns of a page; None shows all."""
    terminal: Sequence[str] | None = None
    """Keys of the columns in the terminal; None shows all."""
    file: Sequence[str] | None = None
    """Keys of the columns of a CSV file; None writes all."""
    sortable: bool = False

    def chosen(self, keys: Sequence[str] | None) -> list[Column]:
        """The columns of these keys, in the order of the keys; all for None."""
        by_key = {column.key: column for column in self.columns}
        return list(self.columns) if keys is None else [by_key[key] for key in keys]


Part = Text | Alert | Code | Facts | Cards | Bars | Images | Charts | Table


@dataclass(frozen=True)
class Section:
    """Parts under a heading."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Refresh:
    """Page of work in progress, which loads itself again and says how old it is."""

    written: float
    """Unix time at which the page was written, in seconds."""
    text: str
    """State of the work, behind the age."""
    late: str
    """Advice when the page is too old for work in progress."""
    interval_s: int = 20
    """Seconds between two loads."""
    late_s: int = 180
    """Age from which the page is too old, in seconds."""


@dataclass(frozen=True)
class Report:
    """A title, a headline and sections, and the files that are written beside the page."""

    title: str
    headline: str
    sections: Sequence[Section]
    subtitle: str = ""
    """Small line above the headline."""
    summary: Sequence[Part] = ()
    """Parts below the headline, before the first section."""
    page: str = "report.html"
    """Name of the page's file."""
    files: Mapping[str, Any] = field(default_factory=dict)
    """Name of a file -> a `Table` for CSV, or plain values for JSON."""
    refresh: Refresh | None = None
    """Present while the work of the report is in progress."""
    terminal: Sequence[Table] = ()
    """Tables for the terminal, with the columns that each has for it."""

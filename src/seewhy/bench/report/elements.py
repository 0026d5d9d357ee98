"""Elements of a report's page; `viz/templates/report.html` renders them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from seewhy.viz.html import Figure


@dataclass(frozen=True)
class Cell:
    """A number in a table.

    Attributes:
        text: The number.
        small: Lines in small print below it.
        best: Whether it is the best of its column.
        shade: Percentage of the color `hue` behind it.
        hue: A CSS color.
    """

    text: str
    small: Sequence[str] = ()
    best: bool = False
    shade: int = 0
    hue: str = "#0072b2"


@dataclass(frozen=True, kw_only=True)
class PageBlock:
    """Anything in a section."""

    kind: ClassVar[str]
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Sentences(PageBlock):
    """Sentences."""

    kind: ClassVar[str] = "sentences"
    lines: Sequence[str]


@dataclass(frozen=True)
class NumberTable(PageBlock):
    """Numbers; the first cell of a row is its heading."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    wrap: bool = False


@dataclass(frozen=True)
class LineCharts(PageBlock):
    """Small line charts with one legend."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[tuple[str, Any]]
    legend: Sequence[tuple[Any, str]]


@dataclass(frozen=True)
class BoxPlots(PageBlock):
    """One distribution under the other, on one scale."""

    kind: ClassVar[str] = "boxes"
    rows: Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class Gallery(PageBlock):
    """Overlays, three in a row on a phone."""

    kind: ClassVar[str] = "gallery"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Definitions(PageBlock):
    """Terms and what they are."""

    kind: ClassVar[str] = "definitions"
    definitions: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class CodeListing(PageBlock):
    """A file as it is."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class PageSection:
    """A section of the page."""

    heading: str
    blocks: Sequence[PageBlock]
    intro: str = ""

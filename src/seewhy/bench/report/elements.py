"""What a report's page is put together from; `viz/templates/report.html` draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from seewhy.viz.html import Figure


@dataclass(frozen=True)
class Cell:
    """A number in a table, with quiet lines under it; `shade` percent of the color `hue` behind it."""

    text: str
    small: Sequence[str] = ()
    best: bool = False
    shade: int = 0
    hue: str = "#0072b2"


@dataclass(frozen=True, kw_only=True)
class Block:
    """Anything in a section."""

    kind: ClassVar[str]
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Words(Block):
    """Sentences."""

    kind: ClassVar[str] = "words"
    lines: Sequence[str]


@dataclass(frozen=True)
class Table(Block):
    """Numbers; the first cell of a row is its heading."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    wrap: bool = False


@dataclass(frozen=True)
class Charts(Block):
    """Small line charts with one legend."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[tuple[str, Any]]
    legend: Sequence[tuple[Any, str]]


@dataclass(frozen=True)
class Boxes(Block):
    """One distribution under the other, on one scale."""

    kind: ClassVar[str] = "boxes"
    rows: Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class Pictures(Block):
    """Overlays, three in a row on a phone."""

    kind: ClassVar[str] = "pictures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Facts(Block):
    """Terms and what they are."""

    kind: ClassVar[str] = "facts"
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Code(Block):
    """A file as it is."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Part:
    """A section of the page."""

    heading: str
    blocks: Sequence[Block]
    intro: str = ""

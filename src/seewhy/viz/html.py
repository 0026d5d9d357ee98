"""One self-contained HTML page: images inside, no scripts, readable on a phone, in daylight and at night."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from seewhy import __version__
from seewhy.core.io import atomic_file
from seewhy.errors import SeewhyError
from seewhy.explanation import Explanation

JPEG_QUALITY = 88


@dataclass(frozen=True)
class Bar:
    """A row of a table of bars.

    Attributes:
        label: What the bar stands for.
        value: Length of the bar, in [0, 1].
        text: What stands beside it; empty: percent.
    """

    label: str
    value: float
    text: str = ""

    @property
    def percent(self) -> float:
        """Length of the bar in percent of the column."""
        return round(100 * min(max(self.value, 0.0), 1.0), 2)

    @property
    def shown(self) -> str:
        """What is written beside the bar."""
        if self.text:
            return self.text
        return "< 0.1 %" if 0 < self.value < 0.0005 else f"{100 * self.value:.1f} %"


@dataclass(frozen=True)
class Figure:
    """An image with its caption.

    Attributes:
        image: What is shown.
        caption: The text below.
        alt: What it shows, for those who cannot see it.
        wide: Whether it gets the page's full width (grids) and scrolls on small screens.
        lossless: Whether it is kept as PNG, not JPEG.
    """

    image: Image.Image
    caption: str = ""
    alt: str = ""
    wide: bool = False
    lossless: bool = False

    @classmethod
    def of(cls, explanation: Explanation, caption: str | None = None, long_side: int = 480) -> Figure:
        """Return the overlay, captioned with method, target and the explanation's warnings."""
        image = explanation.overlay()
        image.thumbnail((long_side, long_side), Image.Resampling.LANCZOS)
        title = explanation.title if caption is None else caption
        words = " — ".join(part for part in (title, *explanation.warnings) if part)
        return cls(image, words, alt=f"Heat map over the image: {words or explanation.title}")

    @property
    def uri(self) -> str:
        """The image as a data URI."""
        buffer, kind = BytesIO(), "png" if self.lossless else "jpeg"
        # no chroma subsampling: text in images stays sharp
        options: dict[str, Any] = {} if self.lossless else {"quality": JPEG_QUALITY, "subsampling": 0}
        self.image.convert("RGB").save(buffer, kind, **options)
        return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class Section:
    """A part of a page; all but the heading may be missing.

    Attributes:
        heading: Its title.
        intro: A paragraph before the figures.
        bars: A table of bars.
        figures: Images with captions.
        bars_title: The title of the table.
        note: A paragraph at the end.
    """

    heading: str
    intro: str = ""
    bars: Sequence[Bar] = ()
    figures: Sequence[Figure] = ()
    bars_title: str = ""
    note: str = ""


def page(title: str, sections: Sequence[Section], path: str | Path, intro: str = "") -> Path:
    """Write one HTML file; all text is escaped.

    Args:
        title: Of the page.
        sections: Its parts.
        path: The file; folders are made.
        intro: A paragraph below the title.

    Returns:
        The path.

    Raises:
        SeewhyError: When the file cannot be written.
    """
    return write(render(title, sections, intro), path)


def write(html: str, path: str | Path) -> Path:
    """Write a text whole or not at all: a reader never sees half a page.

    Returns:
        The path.

    Raises:
        SeewhyError: When the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as draft:
            draft.write_text(html, "utf-8")
    except OSError as error:
        raise SeewhyError(f"cannot write to {path} ({error.strerror or error}); choose another path") from error
    return path


def render(title: str, sections: Sequence[Any], intro: str = "", template: str = "page.html", **variables: Any) -> str:
    """Return the page as a string.

    Args:
        title: Of the page.
        sections: What the template iterates over.
        intro: A paragraph below the title.
        template: A file of `seewhy.viz.templates`.
        **variables: More variables of the template.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("seewhy.viz", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        title=title, intro=intro, sections=sections, version=__version__, **variables
    )

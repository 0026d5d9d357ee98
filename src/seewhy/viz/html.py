"""One self-contained HTML page: pictures inside, no scripts, readable on a phone, in daylight and at night."""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from seewhy import __version__
from seewhy.errors import SeewhyError
from seewhy.explanation import Explanation

JPEG_QUALITY = 88


@dataclass(frozen=True)
class Bar:
    """A row of a table: a label and a bar of length `value` in [0, 1]; `text` stands beside it (empty: percent)."""

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
        return self.text or ("< 0.1 %" if 0 < self.value < 0.0005 else f"{100 * self.value:.1f} %")


@dataclass(frozen=True)
class Figure:
    """A picture with its caption. `wide` figures (grids) get the page's full width and scroll on small screens."""

    image: Image.Image
    caption: str = ""
    alt: str = ""
    wide: bool = False
    lossless: bool = False

    @classmethod
    def of(cls, explanation: Explanation, caption: str | None = None, long_side: int = 480) -> Figure:
        """The overlay, captioned with method, target and whatever the explanation warns of."""
        picture = explanation.overlay()
        picture.thumbnail((long_side, long_side), Image.Resampling.LANCZOS)
        title = explanation.title if caption is None else caption
        words = " — ".join(part for part in (title, *explanation.warnings) if part)
        return cls(picture, words, alt=f"Heat map over the photo: {words or explanation.title}")

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        buffer, kind = BytesIO(), "png" if self.lossless else "jpeg"
        options = {} if self.lossless else {"quality": JPEG_QUALITY, "subsampling": 0}  # text in pictures stays sharp
        self.image.convert("RGB").save(buffer, kind, **options)
        return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph, a table of bars and figures, each optional but the heading."""

    heading: str
    intro: str = ""
    bars: Sequence[Bar] = ()
    figures: Sequence[Figure] = ()
    bars_title: str = ""
    note: str = ""


def page(title: str, sections: Sequence[Section], path: str | Path, intro: str = "") -> Path:
    """Write one HTML file and return its path. All text is escaped.

    Raises:
        SeewhyError: the file cannot be written.
    """
    return write(render(title, sections, intro), path)


def write(html: str, path: str | Path) -> Path:
    """Put a text in place in one step; returns its path.

    Raises:
        SeewhyError: the file cannot be written.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")  # a reader never sees half a page
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(html, "utf-8")
        os.replace(draft, path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise SeewhyError(f"{path} cannot be written ({error.strerror or error}); choose another place") from error
    return path


def render(title: str, sections: Sequence, intro: str = "", template: str = "page.html", **more: Any) -> str:
    """The page as a string."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("seewhy.viz", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        title=title, intro=intro, sections=sections, version=__version__, **more
    )

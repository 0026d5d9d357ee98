"""Many methods for one photo: a figure, or a page that says what each shows, what it cost and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seewhy.explanation import Explanation
from seewhy.methods.base import Method
from seewhy.viz.grid import distinct_titles, explanation_grid, grid
from seewhy.viz.html import Figure, Section, page

COLUMNS = 6
LEGEND = (
    "Bright: more, dark: less. In signed maps orange speaks for the class and blue against it. Each map has its "
    "own scale. A pass is one run of the model on one image."
)


def save_comparison(maps: Sequence[Sequence[Explanation]], tools: Sequence[Method], path: Path, title: str) -> Path:
    """Write rows of targets × columns of methods as a PNG, or (suffix `.html`) as a page with a section per family.

    Raises:
        SeewhyError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in (".html", ".htm"):
        return page(title, _sections(maps, tools), path, LEGEND)
    picture = explanation_grid(maps, title) if len(tools) <= COLUMNS else montage(maps, title)
    picture.save(path)
    return path


def montage(maps: Sequence[Sequence[Explanation]], title: str, columns: int = COLUMNS):
    """All maps of the catalog in rows of `columns`, titled one by one; the photo first."""
    drawn = [(maps[0][0].image, "photo")]
    for i, row in enumerate(maps):
        drawn += [
            (e, _titled(name, e)) for e, name in zip(row, distinct_titles(row), strict=True) if i == 0 or e.target_title
        ]
    lines = [drawn[i : i + columns] for i in range(0, len(drawn), columns)]
    return grid(
        [[cell for cell, _ in line] for line in lines],
        title=title,
        captions=[[caption for _, caption in line] for line in lines],
    )


def _sections(maps: Sequence[Sequence[Explanation]], tools: Sequence[Method]) -> list[Section]:
    """The photo, then each family of methods."""
    families: dict[str, list[Figure]] = {}
    for j, tool in enumerate(tools):
        card = tool.card
        about = f"{card.summary} Passes: {tool.cost}. {card.citation}."
        for i, row in enumerate(maps):
            if i == 0 or row[j].target_title:
                title = _titled(distinct_titles(row)[j], row[j])
                figure = Figure.of(row[j], f"{title}. {about if i == 0 else ''}".strip())
                families.setdefault(card.family, []).append(figure)
    photo = Figure(maps[0][0].image, "as the model sees it", alt="the photo")
    return [Section("The photo", figures=[photo])] + [
        Section(family.upper() if len(family) == 3 else family.capitalize(), figures=figures)
        for family, figures in sorted(families.items())
    ]


def _titled(name: str, one: Explanation) -> str:
    return f"{name} · {one.target_title}" if one.target_title else name

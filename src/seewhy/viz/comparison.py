"""Many methods for one image: a figure, or a page that says what each shows, what it costs and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from seewhy.explanation import Explanation
from seewhy.methods.base import Method
from seewhy.viz.figures import Cell, distinct_titles, explanation_grid, grid
from seewhy.viz.html import Figure, Section, page

COLUMNS = 6
LEGEND = (
    "Bright: more, dark: less. In signed maps orange speaks for the class and blue against it. Each map has its "
    "own scale. A pass is one run of the model on one image."
)


def save_comparison(
    explanations: Sequence[Sequence[Explanation]], methods: Sequence[Method], path: Path, title: str
) -> Path:
    """Write rows of targets × columns of methods as a PNG, or (suffix `.html`) as a page with a section per family.

    Args:
        explanations: One row for each target, one column for each method.
        methods: The methods, in the order of the columns.
        path: The file; folders are made.
        title: Of the figure or page.

    Returns:
        The path.

    Raises:
        SeewhyError: When the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in (".html", ".htm"):
        return page(title, _sections(explanations, methods), path, LEGEND)
    figure = explanation_grid(explanations, title) if len(methods) <= COLUMNS else montage(explanations, title)
    figure.save(path)
    return path


def montage(explanations: Sequence[Sequence[Explanation]], title: str, columns: int = COLUMNS) -> Image.Image:
    """Draw all maps in rows of `columns`, titled one by one; the image first.

    Args:
        explanations: One row for each target, one column for each method.
        title: Above all.
        columns: Cells in each row.
    """
    cells: list[Cell] = [explanations[0][0].image]
    captions = ["image"]
    for i, row in enumerate(explanations):
        for explanation, name in zip(row, distinct_titles(row), strict=True):
            if i == 0 or explanation.target_title:  # a map without a target is the same in every row
                cells.append(explanation)
                captions.append(_caption(name, explanation))
    starts = range(0, len(cells), columns)
    return grid(
        [cells[start : start + columns] for start in starts],
        title=title,
        captions=[captions[start : start + columns] for start in starts],
    )


def _sections(explanations: Sequence[Sequence[Explanation]], methods: Sequence[Method]) -> list[Section]:
    """Return the image, then each family of methods."""
    families: dict[str, list[Figure]] = {}
    for j, method in enumerate(methods):
        card = method.card
        about = f"{card.summary} Passes: {method.cost}. {card.citation}."
        for i, row in enumerate(explanations):
            if i == 0 or row[j].target_title:
                title = _caption(distinct_titles(row)[j], row[j])
                caption = f"{title}. {about}" if i == 0 else f"{title}."
                families.setdefault(card.family, []).append(Figure.of(row[j], caption))
    image = explanations[0][0].image
    sections = []
    if image is not None:
        sections.append(Section("The image", figures=[Figure(image, "as the model sees it", alt="the image")]))
    for family, figures in sorted(families.items()):
        heading = family.upper() if len(family) == 3 else family.capitalize()  # CAM, LRP
        sections.append(Section(heading, figures=figures))
    return sections


def _caption(name: str, explanation: Explanation) -> str:
    return f"{name} · {explanation.target_title}" if explanation.target_title else name

"""Pictures of a run: the best, the median and the worst map of each method, and where methods disagree most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO

import numpy as np
import torch
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image

from seewhy.bench.report.blocks import Block, Cell, Pictures, Table
from seewhy.bench.report.read import MetricInfo, Panel, Run
from seewhy.errors import SeewhyError
from seewhy.explanation import Explanation, interpolate
from seewhy.ranks import mean_ranks
from seewhy.viz.html import Figure

SIDE = 200
DISAGREEMENTS = 6
COMPARED = 24  # entries whose maps are compared with each other
GRID = (28, 28)


def extremes(run: Run, panel: Panel, info: MetricInfo) -> list[Block]:
    """For each method the best, the median and the worst map by one metric."""
    blocks: list[Block] = []
    for method in run.methods:
        rows = run.ask("SELECT entry, sample, value FROM scores WHERE model = ? AND data = ? AND split = ? AND "
                       "method = ? AND metric = ? AND value IS NOT NULL ORDER BY value, entry", *panel.key, method,
                       info.label)
        if not rows:
            continue
        if info.higher_is_better:
            rows.reverse()
        wanted = [("best", rows[0]), ("median", rows[len(rows) // 2]), ("worst", rows[-1])]
        figures = [figure for word, (entry, sample, value) in wanted
                   for figure in _figure(run, panel, method, entry, sample, f"{word}: {value:.3g} · {sample}")]
        if figures:
            blocks.append(Pictures(figures, title=_heading(run, panel, run.methods[method].title)))
    return blocks


def _heading(run: Run, panel: Panel, text: str) -> str:
    return text if len(run.panels) == 1 else f"{text} · {panel.model}"


def disagreements(run: Run, panel: Panel, info: MetricInfo) -> list[Block]:
    """The entries where the methods' scores lie furthest apart, one of an image, each with the two maps."""
    order = "DESC" if info.higher_is_better else "ASC"
    rows = run.ask(
        "WITH own AS (SELECT entry, sample, arg_max(method, value) AS hi, max(value) AS top, arg_min(method, value) "
        "AS lo, min(value) AS bottom FROM scores WHERE model = ? AND data = ? AND split = ? AND metric = ? AND method "
        "<> '' AND value IS NOT NULL GROUP BY entry, sample) SELECT * FROM own WHERE top > bottom QUALIFY "
        "row_number() OVER (PARTITION BY sample ORDER BY top - bottom DESC, entry) = 1 "
        "ORDER BY top - bottom DESC, sample LIMIT ?", *panel.key, info.label, DISAGREEMENTS)
    blocks: list[Block] = []
    for entry, sample, hi, top, lo, bottom in rows:
        pair = [(hi, top), (lo, bottom)] if order == "DESC" else [(lo, bottom), (hi, top)]
        figures = [f for method, value in pair
                   for f in _figure(run, panel, method, entry, sample, f"{run.methods[method].title}: {value:.3g}")]
        if figures:
            blocks.append(Pictures(figures, title=_heading(run, panel, sample)))
    return blocks


def likeness(run: Run, panel: Panel) -> Table | None:
    """Mean rank correlation between the maps of each two methods, over some entries."""
    entries = [e for (e,) in run.ask("SELECT DISTINCT entry FROM scores WHERE model = ? AND data = ? AND split = ? "
                                     "AND method <> '' ORDER BY hash(entry) LIMIT ?", *panel.key, COMPARED)]
    names, found = list(run.methods), []
    for entry in entries:
        maps = _maps(run, panel, entry, names)
        rows = [_places(maps[m]) if m in maps else np.full(GRID[0] * GRID[1], np.nan) for m in names]
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(np.atleast_2d(np.corrcoef(rows)))
    if not found or len(names) < 2:
        return None
    stack = np.stack(found)
    known = (~np.isnan(stack)).sum(0)
    mean = np.where(known > 0, np.nansum(stack, 0) / np.maximum(known, 1), np.nan)
    titles = [run.methods[m].title for m in names]
    rows = [[Cell(title), *(shaded(v) for v in row)] for title, row in zip(titles, mean, strict=True)]
    return Table(["method", *titles], rows, title=f"How alike the maps are · {panel.model}",
                 note=f"Spearman's correlation of the maps' values on a {GRID[0]}×{GRID[1]} grid, mean of "
                      f"{len(found)} maps.")


def shaded(value: float) -> Cell:
    """A correlation with its colour: blue for alike, orange for opposite."""
    if np.isnan(value):
        return Cell("–")
    return Cell(f"{value:.2f}", shade=round(55 * abs(value)), hue="#0072b2" if value > 0 else "#d55e00")


def _places(values: ndarray) -> ndarray:
    return mean_ranks(interpolate(torch.from_numpy(values), GRID).reshape(1, -1))[0].numpy()


def _maps(run: Run, panel: Panel, entry: str, methods: Iterable[str]) -> dict[str, ndarray]:
    files = [str(path) for path in sorted((run.folder / "maps").glob("*.parquet"))]
    if not files:
        return {}
    rows = run.ask('SELECT method, "rows", "cols", map FROM read_parquet(?, union_by_name=true) WHERE model = ? AND '
                   "entry = ? AND list_contains(?, method)", files, panel.model, entry, list(methods))
    found = {method: np.frombuffer(data, np.float16).reshape(r, c).astype(np.float32) for method, r, c, data in rows}
    return {method: values for method, values in found.items() if np.isfinite(values).all()}


def _figure(run: Run, panel: Panel, method: str, entry: str, sample: str, caption: str) -> Sequence[Figure]:
    """The overlay with the object's outline; nothing where the run kept no map."""
    maps = _maps(run, panel, entry, [method])
    if method not in maps:
        return []
    image, mask = _image(run, panel, sample)
    try:
        explanation = Explanation(torch.from_numpy(maps[method]), method, image=image,
                                  signed=run.methods[method].signed)
        picture = explanation.overlay()
    except SeewhyError:
        return []
    if mask is not None:
        picture = outlined(picture, mask)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return [Figure(picture, caption, alt=f"Heat map of {run.methods[method].title} over {sample}")]


def _image(run: Run, panel: Panel, sample: str) -> tuple[Image.Image | None, Bool[ndarray, "rows cols"] | None]:
    files = [str(path) for path in sorted((run.folder / "images").glob("*.parquet"))]
    rows = run.ask("SELECT jpeg, mask FROM read_parquet(?, union_by_name=true) WHERE model = ? AND "
                   "sample = ? LIMIT 1", files, panel.model, sample) if files else []
    if not rows or rows[0][0] is None:
        return None, None
    jpeg, mask = rows[0]
    shape = None if mask is None else np.asarray(Image.open(BytesIO(mask)).convert("1"))
    return Image.open(BytesIO(jpeg)).convert("RGB"), shape


def outlined(picture: Image.Image, mask: Bool[ndarray, "rows cols"]) -> Image.Image:
    """The mask's edge in white on black, to be seen on any colour."""
    size = picture.size
    inside = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    edge = np.zeros_like(inside)
    for axis in (0, 1):
        differs = np.diff(inside.astype(np.int8), axis=axis) != 0
        edge[: differs.shape[0], : differs.shape[1]] |= differs
    pixels = np.asarray(picture).copy()
    pixels[_grown(edge, max(2, size[0] // 110))] = 0
    pixels[_grown(edge, max(1, size[0] // 220))] = 255
    return Image.fromarray(pixels)


def _grown(edge: Bool[ndarray, "rows cols"], by: int) -> Bool[ndarray, "rows cols"]:
    grown = edge.copy()
    for shift in range(1, by + 1):
        for axis in (0, 1):
            for sign in (-1, 1):
                grown |= np.roll(edge, sign * shift, axis)
    return grown

"""Images of a run: the best, the median and the worst map of each method, and where methods disagree most."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from numpy import ndarray
from PIL import Image

from seewhy.bench.parts import READ
from seewhy.bench.report.elements import Cell, Gallery, NumberTable, PageBlock
from seewhy.bench.report.infos import MetricInfo, Panel
from seewhy.bench.report.run_data import RunData
from seewhy.bench.report.summary import format_number
from seewhy.core.maps import mean_ranks, resize
from seewhy.errors import SeewhyError
from seewhy.explanation import Explanation
from seewhy.viz.html import Figure
from seewhy.viz.outlines import outlined

SHOWN_SIDE = 200
DISAGREEMENTS = 6
COMPARED_ENTRIES = 24
"""Entries whose maps are compared with each other."""

GRID = (28, 28)


@dataclass(frozen=True)
class GalleryMap:
    """A map to be shown.

    Attributes:
        entry: Key of the image–target pair.
        sample: Id of the sample.
        method: Label of the method.
        caption: Text under the map.
    """

    entry: str
    sample: str
    method: str
    caption: str


def extremes(run: RunData, panel: Panel, info: MetricInfo) -> list[PageBlock]:
    """Return for each method the best, the median and the worst map by one metric."""
    groups = []
    for method, about in run.methods.items():
        rows = run.query(
            "SELECT entry, sample, target, value FROM scores WHERE model = ? AND data = ? AND split = ? AND "
            "method = ? AND metric = ? AND value IS NOT NULL ORDER BY value, entry",
            *panel.key,
            method,
            info.label,
        )
        if info.higher_is_better:
            rows.reverse()
        wanted = [("best", rows[0]), ("median", rows[len(rows) // 2]), ("worst", rows[-1])] if rows else []
        items = [
            GalleryMap(entry, sample, method, f"{word}: {format_number(value, 3)} · {_subject(target, sample)}")
            for word, (entry, sample, target, value) in wanted
        ]
        groups.append((about.title, items))
    return _gallery_blocks(run, panel, groups)


def disagreements(run: RunData, panel: Panel, info: MetricInfo) -> list[PageBlock]:
    """Return the entries where the methods' scores lie furthest apart, one of an image, each with the two maps."""
    methods = [name for name, about in run.methods.items() if not about.is_reference]
    rows = run.query(
        "WITH own AS (SELECT entry, sample, min(target) AS target, first(method ORDER BY value DESC, method) AS hi, "
        "max(value) AS top, first(method ORDER BY value, method) AS lo, min(value) AS bottom FROM scores "
        "WHERE model = ? AND data = ? AND split = ? AND metric = ? AND list_contains(?, method) AND value IS NOT NULL "
        "GROUP BY entry, sample) SELECT * FROM own "
        "WHERE top > bottom QUALIFY row_number() OVER (PARTITION BY sample ORDER BY top - bottom DESC, entry) = 1 "
        "ORDER BY top - bottom DESC, sample LIMIT ?",
        *panel.key,
        info.label,
        methods,
        DISAGREEMENTS,
    )
    groups = []
    for entry, sample, target, highest, top, lowest, bottom in rows:
        extremes_of_entry = [(highest, top), (lowest, bottom)]
        best_first = extremes_of_entry if info.higher_is_better else extremes_of_entry[::-1]
        items = [
            GalleryMap(entry, sample, method, f"{run.methods[method].title}: {format_number(value, 3)}")
            for method, value in best_first
        ]
        groups.append((_subject(target, sample), items))
    return _gallery_blocks(run, panel, groups)


def _subject(target: str, sample: str) -> str:
    """Return what the map is for, and of which image."""
    return f"{target} · {sample}" if target else sample


def _gallery_blocks(run: RunData, panel: Panel, groups: Sequence[tuple[str, Sequence[GalleryMap]]]) -> list[PageBlock]:
    items = [item for _, group in groups for item in group]
    maps = _load_maps(run, panel, {(item.entry, item.method) for item in items})
    images = _load_images(run, panel, {item.sample for item in items})
    model = "" if len(run.panels) == 1 else f" · {panel.model}"
    blocks: list[PageBlock] = []
    for title, group in groups:
        figures = [figure for item in group if (figure := _figure(run, item, maps, images))]
        if figures:
            blocks.append(Gallery(figures, title=title + model))
    return blocks


def map_similarity(run: RunData, panel: Panel) -> NumberTable | None:
    """Return the mean rank correlation between the maps of each two methods, over some entries."""
    rows = run.query(
        "SELECT DISTINCT entry FROM scores WHERE model = ? AND data = ? AND split = ? "
        "AND method <> '' ORDER BY hash(entry), entry LIMIT ?",
        *panel.key,
        COMPARED_ENTRIES,
    )
    entries, names = [entry for (entry,) in rows], list(run.methods)
    maps = _load_maps(run, panel, {(entry, method) for entry in entries for method in names})
    if not maps or len(names) < 2:
        return None
    no_map = np.full(GRID[0] * GRID[1], np.nan)
    correlations = []
    for entry in entries:
        ranks = [_ranks(maps[entry, name]) if (entry, name) in maps else no_map for name in names]
        with np.errstate(invalid="ignore", divide="ignore"):
            correlations.append(np.atleast_2d(np.corrcoef(ranks)))
    stack = np.stack(correlations)
    counts = (~np.isnan(stack)).sum(0)
    means = np.where(counts > 0, np.nansum(stack, 0) / np.maximum(counts, 1), np.nan)
    titles = [run.methods[name].title for name in names]
    return NumberTable(
        ["method", *titles],
        [[Cell(title), *map(correlation_cell, row)] for title, row in zip(titles, means, strict=True)],
        title=f"Similarity of maps · {panel.model}",
        note=f"Spearman's correlation of the maps' values on a {GRID[0]}×{GRID[1]} grid, "
        f"mean of {len(correlations)} maps.",
    )


def correlation_cell(value: float) -> Cell:
    """Return a correlation with its color: blue for similar, orange for opposite."""
    if np.isnan(value):
        return Cell("–")
    return Cell(f"{round(value, 2) + 0.0:.2f}", shade=round(55 * abs(value)), hue="#0072b2" if value > 0 else "#d55e00")


def _ranks(values: ndarray) -> ndarray:
    return mean_ranks(resize(torch.from_numpy(values), GRID).reshape(1, -1))[0].numpy()


def _load_maps(run: RunData, panel: Panel, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], ndarray]:
    """Load the stored maps by entry and method, without those that hold NaN."""
    files = run.part_files("maps")
    if not files or not wanted:
        return {}
    entries, methods = zip(*sorted(wanted), strict=True)
    rows = run.query(
        f'SELECT entry, method, "rows", "cols", map FROM {READ} SEMI JOIN '
        "(SELECT unnest(?) AS entry, unnest(?) AS method) USING (entry, method) WHERE model = ?",
        files,
        list(entries),
        list(methods),
        panel.model,
    )
    maps = {
        (entry, method): np.frombuffer(data, np.float16).reshape(r, c).astype(np.float32)
        for entry, method, r, c, data in rows
    }
    return {key: values for key, values in maps.items() if np.isfinite(values).all()}


def _load_images(run: RunData, panel: Panel, samples: Collection[str]) -> dict[str, tuple[bytes, bytes | None]]:
    """Load the stored images with their masks, by sample."""
    files = run.part_files("images")
    if not files or not samples:
        return {}
    rows = run.query(
        f"SELECT sample, jpeg, mask FROM {READ} WHERE model = ? AND list_contains(?, sample) AND jpeg IS NOT NULL",
        files,
        panel.model,
        sorted(samples),
    )
    return {sample: (jpeg, mask) for sample, jpeg, mask in rows}


def _figure(
    run: RunData, item: GalleryMap, maps: dict[tuple[str, str], ndarray], images: dict[str, tuple[bytes, bytes | None]]
) -> Figure | None:
    """Return the overlay with the objects' outline; nothing where the run kept no map."""
    if (item.entry, item.method) not in maps:
        return None
    jpeg, mask = images.get(item.sample, (None, None))
    image = None if jpeg is None else Image.open(BytesIO(jpeg), formats=["JPEG"]).convert("RGB")
    values, about = torch.from_numpy(maps[item.entry, item.method]), run.methods[item.method]
    try:
        overlay = Explanation(values, item.method, image=image, signed=about.signed).overlay()
    except SeewhyError:
        return None
    if mask is not None:
        overlay = outlined(overlay, np.asarray(Image.open(BytesIO(mask), formats=["PNG"]).convert("1")))
    overlay.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return Figure(overlay, item.caption, alt=f"Heat map of {about.title} over {item.sample}")

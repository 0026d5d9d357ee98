"""Pictures of a run: the best, the median and the worst map of each method, and where methods disagree most."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from numpy import ndarray
from PIL import Image

from seewhy.bench.report.elements import Block, Cell, Pictures, Table
from seewhy.bench.report.run_data import MetricInfo, Panel, Run
from seewhy.bench.report.summary import number
from seewhy.core.maps import mean_ranks, resize
from seewhy.errors import SeewhyError
from seewhy.explanation import Explanation
from seewhy.viz.html import Figure
from seewhy.viz.outlines import outlined

SIDE = 200
DISAGREEMENTS = 6
COMPARED = 24  # entries whose maps are compared with each other
GRID = (28, 28)


@dataclass(frozen=True)
class Shot:
    """A map to be shown."""

    entry: str
    sample: str
    method: str
    caption: str


def extremes(run: Run, panel: Panel, info: MetricInfo) -> list[Block]:
    """For each method the best, the median and the worst map by one metric."""
    groups = []
    for method, about in run.methods.items():
        rows = run.ask(
            "SELECT entry, sample, target, value FROM scores WHERE model = ? AND data = ? AND split = ? AND "
            "method = ? AND metric = ? AND value IS NOT NULL ORDER BY value, entry",
            *panel.key,
            method,
            info.label,
        )
        if info.higher_is_better:
            rows.reverse()
        wanted = [("best", rows[0]), ("median", rows[len(rows) // 2]), ("worst", rows[-1])] if rows else []
        shots = [
            Shot(entry, sample, method, f"{word}: {number(value, 3)} · {_subject(target, sample)}")
            for word, (entry, sample, target, value) in wanted
        ]
        groups.append((about.title, shots))
    return _blocks(run, panel, groups)


def disagreements(run: Run, panel: Panel, info: MetricInfo) -> list[Block]:
    """The entries where the methods' scores lie furthest apart, one of an image, each with the two maps."""
    methods = [name for name, about in run.methods.items() if not about.baseline]
    rows = run.ask(
        "WITH own AS (SELECT entry, sample, any_value(target) AS target, arg_max(method, value) AS hi, max(value) AS "
        "top, arg_min(method, value) AS lo, min(value) AS bottom FROM scores WHERE model = ? AND data = ? AND split = "
        "? AND metric = ? AND list_contains(?, method) AND value IS NOT NULL GROUP BY entry, sample) SELECT * FROM own "
        "WHERE top > bottom QUALIFY row_number() OVER (PARTITION BY sample ORDER BY top - bottom DESC, entry) = 1 "
        "ORDER BY top - bottom DESC, sample LIMIT ?",
        *panel.key,
        info.label,
        methods,
        DISAGREEMENTS,
    )
    groups = []
    for entry, sample, target, *pair in rows:
        pair = [tuple(pair[:2]), tuple(pair[2:])]
        groups.append(
            (
                _subject(target, sample),
                [
                    Shot(entry, sample, method, f"{run.methods[method].title}: {number(value, 3)}")
                    for method, value in (pair if info.higher_is_better else pair[::-1])
                ],
            )
        )
    return _blocks(run, panel, groups)


def _subject(target: str, sample: str) -> str:
    """What the map is for, and of which picture."""
    return f"{target} · {sample}" if target else sample


def _blocks(run: Run, panel: Panel, groups: Sequence[tuple[str, Sequence[Shot]]]) -> list[Block]:
    shots = [shot for _, group in groups for shot in group]
    maps = _maps(run, panel, {(shot.entry, shot.method) for shot in shots})
    images = _images(run, panel, {shot.sample for shot in shots})
    model = "" if len(run.panels) == 1 else f" · {panel.model}"
    blocks = []
    for title, group in groups:
        figures = [figure for shot in group if (figure := _figure(run, shot, maps, images))]
        if figures:
            blocks.append(Pictures(figures, title=title + model))
    return blocks


def likeness(run: Run, panel: Panel) -> Table | None:
    """Mean rank correlation between the maps of each two methods, over some entries."""
    entries = [
        e
        for (e,) in run.ask(
            "SELECT DISTINCT entry FROM scores WHERE model = ? AND data = ? AND split = ? "
            "AND method <> '' ORDER BY hash(entry) LIMIT ?",
            *panel.key,
            COMPARED,
        )
    ]
    names, found = list(run.methods), []
    maps = _maps(run, panel, {(entry, method) for entry in entries for method in names})
    for entry in entries if maps else ():
        rows = [_places(maps[entry, m]) if (entry, m) in maps else np.full(GRID[0] * GRID[1], np.nan) for m in names]
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(np.atleast_2d(np.corrcoef(rows)))
    if not found or len(names) < 2:
        return None
    stack = np.stack(found)
    known = (~np.isnan(stack)).sum(0)
    mean = np.where(known > 0, np.nansum(stack, 0) / np.maximum(known, 1), np.nan)
    titles = [run.methods[m].title for m in names]
    rows = [[Cell(title), *(shaded(v) for v in row)] for title, row in zip(titles, mean, strict=True)]
    return Table(
        ["method", *titles],
        rows,
        title=f"How alike the maps are · {panel.model}",
        note=f"Spearman's correlation of the maps' values on a {GRID[0]}×{GRID[1]} grid, mean of {len(found)} maps.",
    )


def shaded(value: float) -> Cell:
    """A correlation with its color: blue for alike, orange for opposite."""
    if np.isnan(value):
        return Cell("–")
    return Cell(f"{round(value, 2) + 0.0:.2f}", shade=round(55 * abs(value)), hue="#0072b2" if value > 0 else "#d55e00")


def _places(values: ndarray) -> ndarray:
    return mean_ranks(resize(torch.from_numpy(values), GRID).reshape(1, -1))[0].numpy()


def _maps(run: Run, panel: Panel, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], ndarray]:
    """The stored maps by entry and method; without those that hold NaN."""
    files = run.parts("maps")
    if not files or not wanted:
        return {}
    entries, methods = zip(*sorted(wanted), strict=True)
    rows = run.ask(
        'SELECT entry, method, "rows", "cols", map FROM read_parquet(?, union_by_name=true) SEMI JOIN '
        "(SELECT unnest(?) AS entry, unnest(?) AS method) USING (entry, method) WHERE model = ?",
        files,
        list(entries),
        list(methods),
        panel.model,
    )
    found = {
        (entry, method): np.frombuffer(data, np.float16).reshape(r, c).astype(np.float32)
        for entry, method, r, c, data in rows
    }
    return {key: values for key, values in found.items() if np.isfinite(values).all()}


def _images(run: Run, panel: Panel, samples: Collection[str]) -> dict[str, tuple[bytes, bytes | None]]:
    """The stored pictures with their masks, by sample."""
    files = run.parts("images")
    if not files or not samples:
        return {}
    rows = run.ask(
        "SELECT sample, jpeg, mask FROM read_parquet(?, union_by_name=true) WHERE model = ? AND "
        "list_contains(?, sample) AND jpeg IS NOT NULL",
        files,
        panel.model,
        sorted(samples),
    )
    return {sample: (jpeg, mask) for sample, jpeg, mask in rows}


def _figure(
    run: Run, shot: Shot, maps: dict[tuple[str, str], ndarray], images: dict[str, tuple[bytes, bytes | None]]
) -> Figure | None:
    """The overlay with the objects' outline; nothing where the run kept no map."""
    if (shot.entry, shot.method) not in maps:
        return None
    jpeg, mask = images.get(shot.sample, (None, None))
    image = None if jpeg is None else Image.open(BytesIO(jpeg)).convert("RGB")
    values, about = torch.from_numpy(maps[shot.entry, shot.method]), run.methods[shot.method]
    try:
        picture = Explanation(values, shot.method, image=image, signed=about.signed).overlay()
    except SeewhyError:
        return None
    if mask is not None:
        picture = outlined(picture, np.asarray(Image.open(BytesIO(mask)).convert("1")))
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return Figure(picture, shot.caption, alt=f"Heat map of {about.title} over {shot.sample}")

"""The page of which methods tell objects apart, made from a run of the preset `scenes_objects`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seewhy.bench.report.gaps import describe_skipped
from seewhy.bench.report.infos import Panel
from seewhy.bench.report.leaderboard import Score, compute_leaderboard, methods_with_scores, scores_of
from seewhy.bench.report.run_data import RunData
from seewhy.viz.html import write

METRIC = "object_choice"
COLUMNS = {
    f"{METRIC}.right": "max in right object",
    f"{METRIC}.wrong": "max in wrong object",
    METRIC: "right − wrong",
    f"{METRIC}.mass_right": "positive mass right",
    f"{METRIC}.mass_wrong": "… wrong",
}


def write_objects_page(folder: str | Path, path: str | Path, seed: int = 0) -> None:
    """Write the page as Markdown.

    Args:
        folder: A run of `scenes_objects`.
        path: The page.
        seed: Seed of the bootstrap.

    Raises:
        DataError: When there is no run, or it has no rows.
        SeewhyError: When the page cannot be written.
    """
    run = RunData(folder)
    scores = compute_leaderboard(run, seed=seed)
    ((images,),) = run.query("SELECT count(DISTINCT sample) FROM scores WHERE sample <> ''")
    parts = [
        "# Which methods tell objects apart?",
        "",
        f"Made by `seewhy bench scenes --n {images} -o {Path(path).as_posix()}`: the preset `scenes_objects`, {images} "
        "scenes of the split `multi` (two or three objects of different classes), one map for each object, for its own "
        "class, bilinear to the image. ± is half the width of the 95 % bootstrap interval over images, which takes all "
        "maps of an image together; a method tells classes apart where the interval of right − wrong lies above 0. "
        "Repetitions are few: the options stand in the preset.",
    ]
    for panel in run.panels:
        parts += ["", f"## {panel.model}", "", *_table(run, panel, scores_of(panel, scores))]
    write("\n".join([*parts, "", *describe_skipped(run.manifest), ""]), Path(path))


def _described(run: RunData) -> dict[str, dict[str, Any]]:
    return {about["label"]: about for about in run.manifest.get("methods") or ()}


def _table(run: RunData, panel: Panel, scores: Mapping[tuple[str, str], Score]) -> list[str]:
    """Return the lines of a model's table, best first, and which methods do not keep what they promise."""
    about = _described(run)
    lines = [f"| method | {' | '.join(COLUMNS.values())} | maps | passes | tells classes apart |"]
    lines.append("|---" * (len(COLUMNS) + 4) + "|")
    broken = []
    order = sorted(methods_with_scores(run, scores), key=lambda method: -(scores[method, METRIC].mean or 0.0))
    for method in order:
        apart = (scores[method, METRIC].low or 0.0) > 0
        for_class = bool(about.get(method, {}).get("class_specific")) and not run.methods[method].is_reference
        title = run.methods[method].title
        if for_class and not apart:
            broken.append(title)
        verdict = ("yes" if apart else "no") + ("" if for_class else " (label-free)")
        cells = [_percent(scores[method, metric]) for metric in COLUMNS]
        passes = about.get(method, {}).get("passes", 0)
        lines.append(f"| {title} | {' | '.join(cells)} | {scores[method, METRIC].n} | {passes} | {verdict} |")
    if broken:
        lines += ["", f"Asked for a class, and yet not discriminative here: {', '.join(broken)}."]
    return lines


def _percent(score: Score) -> str:
    if score.mean is None:
        return "–"
    return f"{score.mean:.1%}" + ("" if score.half_width is None else f" ± {score.half_width:.1%}")

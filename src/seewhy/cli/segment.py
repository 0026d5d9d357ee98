"""`seewhy segment`: segment images by clustering the model's activations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from seewhy.cli import common
from seewhy.cli.loading import Loading, with_model
from seewhy.errors import ConstantMapError, OptionError, SeewhyError

if TYPE_CHECKING:
    from seewhy.analysis import ImageSegments
    from seewhy.core.boxes import Box
    from seewhy.methods import NAVE
    from seewhy.methods.base import Method
    from seewhy.models.adapter import VisionModel

K = Annotated[str, typer.Option(help="Number of segments, or auto: the one of 3 to 10 that fits best.")]
Layers = Annotated[list[str] | None, typer.Option("--layer", help="A layer to cluster, by dotted name; repeatable.")]
Joint = Annotated[bool, typer.Option(help="Cluster all images together: the same number means the same in each.")]
GraphCut = Annotated[bool, typer.Option(help="Instead of segments: the outline of the object that a map points at.")]
MapMethod = Annotated[str, typer.Option("--method", "-M", help="With --graphcut: whose map; see `seewhy methods`.")]
MapTarget = Annotated[str | None, typer.Option("--target", "-t", help="With --graphcut: class name or number, top-1 …")]
MinArea = Annotated[
    int | None, typer.Option(help="Parts with fewer pixels get no box; default 784, less in images below 224 pixels.")
]
Border = Annotated[int | None, typer.Option(help="Pixels along the edge that are in no box; default 14, likewise.")]

Row = dict[str, Any]


@with_model
def segment(
    images: common.Images,
    model: common.Model = common.DEFAULT_MODEL,
    k: K = "5",
    layer: Layers = None,
    joint: Joint = False,
    option: common.Options = None,
    graphcut: GraphCut = False,
    method: MapMethod = "saliency",
    target: MapTarget = None,
    min_area: MinArea = None,
    border: Border = None,
    out: common.Out = Path("out/segment"),
    max_pixels: common.MaxPixels = common.DEFAULT_MAX_PIXELS,
    as_json: common.AsJson = False,
    loading: Loading = Loading(),
) -> None:
    """Segment images by clustering the model's activations (NAVE). Label-free.

    All layers weigh the same; `-O balance=channels` gives the paper's weights, with which the shallow layers of a
    network whose channels grow fast decide alone, and the segments fall apart.

    A box is drawn around each connected part, in pixels (left, top, right, bottom; the last two excluded) of what the
    model saw of the image, whose size is in the output. An image that fails is reported and the others are still
    segmented.
    """
    loaded = loading.model(model)
    paths, code = common.expand_images(images)
    names = common.folder_names(paths)
    figures = [out / f"{name}.png" for name in names]
    if graphcut:
        (configured,) = common.configured_methods(loaded, [method], layer[0] if layer else None, option)
        rows = _outline_objects(configured, paths, figures, target, max_pixels)
    else:
        nave = _nave(loaded, k, layer, joint, option)
        if joint:
            rows = _segment_jointly(nave, paths, out / "segments.png", max_pixels, min_area, border)
        else:
            rows = _segment_each(nave, paths, figures, max_pixels, min_area, border)
    _report(rows, as_json)
    raise typer.Exit(next((row["exit_code"] for row in rows if row["exit_code"]), code))


def _nave(model: VisionModel, k: str, layers: list[str] | None, joint: bool, options: list[str] | None) -> NAVE:
    from seewhy.methods import NAVE
    from seewhy.methods.factory import as_method

    if k != "auto" and not k.isdigit():
        raise OptionError(f"k must be a number or auto, got {k!r}; use for example --k 5")
    values = {"k": None if k == "auto" else int(k), "layers": layers, "joint": joint, "balance": "equal"}
    return cast(NAVE, as_method(model, NAVE, **{**values, **common.parse_options(options)}))


def _row_of(path: Path, work: Callable[[], Row]) -> Row:
    """Return the row of one image, or of its error."""
    try:
        return {"image": str(path), "error": None, "exit_code": 0, **work()}
    except SeewhyError as error:
        return {"image": str(path), "error": str(error), "exit_code": error.exit_code}


def _segment_each(
    nave: NAVE, paths: list[Path], figures: list[Path], max_pixels: int, min_area: int | None, border: int | None
) -> list[Row]:
    from seewhy.analysis.segments import segment_images

    def work(path: Path, figure: Path) -> Row:
        segments = segment_images(nave, [nave.model.opened(path, max_pixels)()], min_area, border)
        return _draw(segments, [path], nave, figure)[0]

    pairs = common.progress(list(zip(paths, figures, strict=True)), len(paths), "segmenting")
    return [_row_of(path, partial(work, path, figure)) for path, figure in pairs]


def _segment_jointly(
    nave: NAVE, paths: list[Path], figure: Path, max_pixels: int, min_area: int | None, border: int | None
) -> list[Row]:
    """Segment all images that can be read, in one figure."""
    from seewhy.analysis.segments import segment_images

    def read(path: Path) -> Row:
        return {"loaded": nave.model.opened(path, max_pixels)()}

    rows = [_row_of(path, partial(read, path)) for path in paths]
    loaded = [row.pop("loaded") for row in rows if not row["error"]]
    readable = [path for path, row in zip(paths, rows, strict=True) if not row["error"]]
    if not readable:
        return rows
    drawn = iter(_draw(segment_images(nave, loaded, min_area, border), readable, nave, figure))
    return [row if row["error"] else {**row, **next(drawn)} for row in rows]


def _draw(segments: list[ImageSegments], paths: list[Path], nave: NAVE, figure: Path) -> list[Row]:
    """Save one figure of all; return a row for each."""
    from seewhy.viz.segments import segments_figure

    if all(one.is_constant for one in segments):
        raise ConstantMapError(
            "the layers' activations are the same everywhere in the image; try other layers or another model"
        )
    names = [path.name for path in paths]
    title = f"{' · '.join(names[:3])} · {nave.card.title} of {nave.model.name}"
    figure.parent.mkdir(parents=True, exist_ok=True)
    segments_figure(segments, names, title).save(figure)
    common_values = {"model": nave.model.name, "options": nave.options, "figure": str(figure)}
    return [{**_segments_row(one), **common_values} for one in segments]


def _segments_row(one: ImageSegments) -> Row:
    clusters = []
    for cluster, share in enumerate(one.shares):
        if share:
            parts = [part for part in one.components if part.cluster == cluster]
            clusters.append(
                {
                    "cluster": cluster,
                    "share": round(share, 4),
                    "background": cluster in one.background,
                    "parts": [{"area": part.area, "box": _corners(part.box)} for part in parts],
                }
            )
    chosen = {"cluster": one.chosen.cluster, "box": _corners(one.chosen.box)} if one.chosen else None
    return {"size": list(one.image.size), "grid": list(one.labels.shape), "segments": clusters, "chosen": chosen}


def _corners(box: Box) -> list[int]:
    return [box.left, box.top, box.right, box.bottom]


def _outline_objects(
    method: Method, paths: list[Path], figures: list[Path], target: str | None, max_pixels: int
) -> list[Row]:
    return [
        _row_of(path, partial(_outline_object, method, path, figure, target, max_pixels))
        for path, figure in zip(paths, figures, strict=True)
    ]


def _outline_object(method: Method, path: Path, figure: Path, target: str | None, max_pixels: int) -> Row:
    from seewhy.analysis import segment_object
    from seewhy.explainer import explain
    from seewhy.viz.segments import object_figure

    explanation = explain(method.model, path, method, target, max_pixels=max_pixels)
    assert explanation.image is not None  # `explain` keeps what the model saw
    segmentation = segment_object(explanation.image, explanation)
    figure.parent.mkdir(parents=True, exist_ok=True)
    object_figure(explanation, segmentation, f"{path.name} · {method.model.name}").save(figure)
    return {
        "model": method.model.name,
        "method": explanation.method,
        "target": explanation.target,
        "size": list(explanation.image.size),
        "area": int(segmentation.mask.sum()),
        "box": _corners(segmentation.box),
        "figure": str(figure),
    }


def _report(rows: list[Row], as_json: bool) -> None:
    for row in rows:
        if row["error"]:
            common.report_error(row["image"], row["error"])
        elif not as_json:
            boxes = row.get("box") or (row["chosen"] or {}).get("box")
            typer.echo(f"{row['image']}: box {boxes} → {row['figure']}")
    if as_json:
        common.print_json(rows)

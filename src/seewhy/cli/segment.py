"""`seewhy segment`: photos in, the parts that the model's layers hold to be alike out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seewhy.cli import common
from seewhy.errors import ConstantMapError, OptionError, SeewhyError

if TYPE_CHECKING:
    from PIL import Image

    from seewhy.methods.clustering.segments import PictureSegments
    from seewhy.models.adapter import VisionModel

K = Annotated[str, typer.Option(help="Number of segments, or auto: the one of 3 to 10 that fits best.")]
Layers = Annotated[list[str] | None, typer.Option("--layer", help="A layer to look at, by dotted name; may repeat.")]
Joint = Annotated[bool, typer.Option(help="Cluster all photos together: the same number means the same in each.")]
GraphCut = Annotated[bool, typer.Option(help="Instead of segments: the outline of the object that a map points at.")]
OfMap = Annotated[str, typer.Option("--method", "-M", help="With --graphcut: whose map, a name of `seewhy methods`.")]
OfTarget = Annotated[str | None, typer.Option("--target", "-t", help="With --graphcut: class name or number, top-1 …")]
MinArea = Annotated[
    int | None, typer.Option(help="Parts with fewer pixels get no box; default 784, less in photos below 224 pixels.")
]
Border = Annotated[int | None, typer.Option(help="Pixels along the edge that are in no box; default 14, likewise.")]

Row = dict[str, Any]


def segment(
    images: common.Images,
    model: common.Model = common.DEFAULT_MODEL,
    k: K = "5",
    layer: Layers = None,
    joint: Joint = False,
    option: common.Options = None,
    graphcut: GraphCut = False,
    method: OfMap = "saliency",
    target: OfTarget = None,
    min_area: MinArea = None,
    border: Border = None,
    out: common.Out = Path("out/segment"),
    device: common.Device = None,
    architecture: common.Architecture = None,
    max_pixels: common.MaxPixels = 100_000_000,
    as_json: common.AsJson = False,
) -> None:
    """Cut photos into the parts that the model's layers hold to be alike (NAVE), with boxes; no label is needed.

    All layers weigh the same; `-O balance=channels` gives the paper's weights, with which the shallow layers of a
    network whose channels grow fast decide alone, and segments go to pieces.

    A box is round each connected part, in pixels (left, top, right, bottom; the last two excluded) of what the model
    saw of the photo, whose size is in the output. A photo that fails is reported and the others still come out.
    """
    loaded = common.load(model, architecture, device)
    paths = common.expand_folders(images)
    names = common.number_repeats(path.stem for path in paths)
    if graphcut:
        tool = common.configured_methods(loaded, [method], layer[0] if layer else None, option)[0]
        rows = [
            _tried(path, lambda p, name=name: _object(loaded, p, tool, target, out / f"{name}.png", max_pixels))
            for path, name in zip(paths, names, strict=True)
        ]
    else:
        nave = _nave(loaded, k, layer, joint, option)
        draw = _joint if joint else _one_by_one
        rows = draw(nave, paths, names, out, max_pixels, min_area, border)
    _report(rows, as_json)
    raise typer.Exit(next((row["exit_code"] for row in rows if row["exit_code"]), 0))


def _nave(model: VisionModel, k: str, layers: list[str] | None, joint: bool, options: list[str] | None) -> Any:
    from seewhy.methods.factory import as_method

    if k != "auto" and not k.isdigit():
        raise OptionError(f"--k {k!r} is neither a number nor auto; use for example --k 5")
    given = common.parse_options(options)
    own = {"k": None if k == "auto" else int(k), "layers": layers, "joint": joint, "balance": "equal"}
    return as_method(model, "nave", **{**own, **given})


def _tried(path: Path, work: Any) -> Row:
    """The row of one photo, or of its error."""
    try:
        return {"image": str(path), "error": None, "exit_code": 0, **work(path)}
    except SeewhyError as error:
        return _failed(path, error)


def _failed(path: Path, error: SeewhyError) -> Row:
    return {"image": str(path), "error": str(error), "exit_code": error.exit_code}


def _read(path: Path, max_pixels: int) -> Image.Image:
    from seewhy.core.images import load_image

    return load_image(path, max_pixels=max_pixels)


def _one_by_one(nave: Any, paths: list[Path], names: list[str], out: Path, max_pixels: int, *limits: Any) -> list[Row]:
    from seewhy.methods.clustering.segments import segment_pictures

    def work(path: Path, figure: Path) -> Row:
        (found,) = segment_pictures(nave, [_read(path, max_pixels)], *limits)
        return _drawn([found], [path], nave, figure)[0]

    pairs = list(zip(paths, names, strict=True))
    return [
        _tried(path, lambda p, name=name: work(p, out / f"{name}.png"))
        for path, name in common.progress(pairs, len(pairs), "segmenting")
    ]


def _joint(nave: Any, paths: list[Path], names: list[str], out: Path, max_pixels: int, *limits: Any) -> list[Row]:
    """All photos that can be read, in one figure."""
    from seewhy.methods.clustering.segments import segment_pictures

    rows = [_tried(path, lambda p: {"picture": _read(p, max_pixels)}) for path in paths]
    pictures = [row.pop("picture") for row in rows if not row["error"]]
    good = [path for path, row in zip(paths, rows, strict=True) if not row["error"]]
    if not good:
        return rows
    found = iter(_drawn(segment_pictures(nave, pictures, *limits), good, nave, out / "segments.png"))
    return [row if row["error"] else {**row, **next(found)} for row in rows]


def _drawn(found: list[PictureSegments], paths: list[Path], nave: Any, figure: Path) -> list[Row]:
    """Save one figure of all; a row for each."""
    if all(one.is_constant for one in found):
        raise ConstantMapError("the layers say the same everywhere in the photo; try other layers or another model")
    from seewhy.viz.segments import segments_figure

    names = [path.name for path in paths]
    figure.parent.mkdir(parents=True, exist_ok=True)
    segments_figure(found, names, f"{' · '.join(names[:3])} · {nave.card.title} of {nave.model.name}").save(figure)
    return [{**_row(one), "model": nave.model.name, "options": nave.options, "figure": str(figure)} for one in found]


def _row(one: PictureSegments) -> Row:
    clusters = [
        {
            "cluster": c,
            "share": round(share, 4),
            "background": c in one.background,
            "parts": [{"area": p.area, "box": _corners(p.box)} for p in one.components if p.cluster == c],
        }
        for c, share in enumerate(one.shares)
        if share
    ]
    chosen = {"cluster": one.chosen.cluster, "box": _corners(one.chosen.box)} if one.chosen else None
    return {"size": list(one.image.size), "grid": list(one.labels.shape), "segments": clusters, "chosen": chosen}


def _corners(box: Any) -> list[int]:
    return [box.left, box.top, box.right, box.bottom]


def _object(model: VisionModel, path: Path, tool: Any, target: str | None, figure: Path, max_pixels: int) -> Row:
    from seewhy.analysis.segmentation import segment_object
    from seewhy.explainer import explain
    from seewhy.viz.segments import object_figure

    explanation = explain(model, path, tool, target, max_pixels=max_pixels)
    found = segment_object(explanation.image, explanation)
    figure.parent.mkdir(parents=True, exist_ok=True)
    object_figure(explanation, found, f"{path.name} · {model.name}").save(figure)
    return {
        "model": model.name,
        "method": explanation.method,
        "target": explanation.target,
        "size": list(explanation.image.size),
        "area": int(found.mask.sum()),
        "box": _corners(found.box),
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

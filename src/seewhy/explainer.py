"""The front door: photos in, explanations out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from seewhy.core.images import MAX_PIXELS, ImageLike, image_paths, load_image, load_images
from seewhy.core.options import options_of
from seewhy.errors import OptionError, SeewhyError, TargetError
from seewhy.explanation import Explanation
from seewhy.methods import METHODS, Method
from seewhy.models.adapter import VisionModel
from seewhy.targets import Output, Rank, Target, TargetLike, tiled_rows

MethodLike = Any
"""A method's name, a method class, or a configured method."""


DEFAULTS = ("cdam", "grad_cam", "occlusion", "relax")
"""What explains a model when nothing is asked for: the first of these that can serve it."""

QUICK = {"n_samples": 10, "n_steps": 10, "n_masks": 200, "top_k": 64}
"""Repetitions for an overview of many methods; each method's default is larger."""

TOGETHER = 64
"""How many maps, of pictures and targets, a method makes in one call at the most where targets share its forwards."""


class ConstantMapWarning(UserWarning):
    """A map has one value everywhere: it says nothing about where."""


@dataclass
class Outcome:
    """What came of one photo in a run over many.

    Attributes:
        source: the path, or a number for photos from memory.
        maps: explanations, one row for each target, one column for each method.
        top: the model's own answers: (label, logit, probability), best first; empty without class scores.
        error: why there are no maps (then `maps` is empty).
    """

    source: str
    maps: list[list[Explanation]] = field(default_factory=list)
    top: list[tuple[str, float, float]] = field(default_factory=list)
    error: SeewhyError | None = None


def list_methods(pattern: str = "*") -> list[str]:
    """Return the names of all methods that match a shell pattern."""
    return METHODS.names(pattern)


def explain(
    model: VisionModel,
    image: ImageLike | Sequence[ImageLike],
    method: MethodLike = None,
    target: TargetLike = None,
    *,
    batch_size: int = 16,
    max_pixels: int = MAX_PIXELS,
    **options: Any,
) -> Explanation | list[Explanation]:
    """Explain one photo, or each of several.

    Args:
        model: from `seewhy.load_model` or `seewhy.wrap`.
        image: a path, PIL image, array or tensor (a picture, not a preprocessed batch); a list, a batch or a folder.
        method: a name from `seewhy.list_methods()`, a method class or a configured method; by default the
            first of `DEFAULTS` that can serve the model.
        target: see `seewhy.targets.as_target`; a list has one target for each image.
        batch_size: images per forward pass.
        max_pixels: the largest image that is decoded.
        options: the method's options (`layer=`, `n_samples=` …).

    Returns:
        An `Explanation` for a single photo, a list for several.

    Raises:
        ImageError, TargetError, RequirementError, UnknownNameError, OptionError, NonFiniteError: one line, with advice.

    Warns:
        ConstantMapWarning: a map has the same value everywhere.
    """
    tool = as_method(model, method, **options)
    pictures = load_images(image, max_pixels=max_pixels)
    sources = _sources(image, len(pictures))
    single = _is_single(image)
    targets = _one_for_each(target, len(pictures))
    found: list[Explanation] = []
    for start in range(0, len(pictures), batch_size):
        part = slice(start, start + batch_size)
        goal = targets[part] if targets is not None else target
        found += _explain_batch(model, tool, pictures[part], sources[part], goal)
    for explanation in found:
        if explanation.is_constant:
            warnings.warn(explanation.constant_advice, ConstantMapWarning, stacklevel=2)
    return found[0] if single else found


def compare(
    model: VisionModel, image: ImageLike, methods: Sequence[MethodLike], targets: Sequence[TargetLike] = (None,)
) -> list[list[Explanation]]:
    """Methods side by side for one photo: one row for each target, one column for each method.

    Raises:
        SeewhyError: as `explain`.
    """
    (outcome,) = explain_each(model, [image], methods, targets)
    if outcome.error:
        raise outcome.error
    return outcome.maps


def explain_each(
    model: VisionModel,
    images: Sequence[ImageLike],
    methods: Sequence[MethodLike],
    targets: Sequence[TargetLike] = (None,),
    *,
    batch_size: int = 16,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Outcome]:
    """Explain many photos; a bad one becomes an outcome with its error, and the others still come out.

    A target is anything that `as_target` takes, the same for all photos; `"top-3"` stands for the model's three best
    classes, and `"truth"` for the class that the photo's folder is named after. Outcomes keep the order of `images`.

    Raises:
        SeewhyError: a method or target that cannot work for any photo, before the first one.
    """
    tools = [as_method(model, m) for m in methods]
    spread = [t for target in targets for t in spread_top(target)]
    for target in spread:
        if not _is_truth(target):
            model.as_target(target).check(1, model.classes)
    for start in range(0, len(images), batch_size):
        yield from _outcomes(model, images[start : start + batch_size], start, tools, spread, max_pixels)


def as_method(model: VisionModel, method: MethodLike = None, **options: Any) -> Method:
    """A configured method for this model.

    Raises:
        UnknownNameError: no such method. RequirementError: it cannot serve the model. OptionError: no such option.
    """
    if isinstance(method, Method):
        if options:
            raise OptionError("the method is configured already; give the options where you made it")
        return method
    if method is None:
        method = next((name for name in DEFAULTS if not METHODS[name].why_incompatible(model)), DEFAULTS[0])
    cls = METHODS[method] if isinstance(method, str) else method
    unknown = sorted(set(options) - set(options_of(cls)))
    if unknown:
        known = ", ".join(options_of(cls)) or "none"
        raise OptionError(f"{cls.card.title} has no option {unknown[0]!r}; its options: {known}")
    return cls(model, **options)


def quick_options(method: type[Method]) -> dict[str, int]:
    """The options of `QUICK` that a method has."""
    return {name: value for name, value in QUICK.items() if name in options_of(method)}


def spread_top(target: TargetLike) -> list[TargetLike]:
    """`"top-3"` as the three targets that it stands for; anything else as it is."""
    if isinstance(target, str):
        made = target.strip().lower().removeprefix("top-")
        if target.strip().lower().startswith("top-") and made.isdigit() and int(made) > 0:
            return [Rank(rank) for rank in range(1, int(made) + 1)]
    return [target]


def top_answers(model: VisionModel, output: Output, row: int = 0, k: int = 5) -> list[tuple[str, float, float]]:
    """The model's best answers for one image of a batch: (label, logit, probability)."""
    if output.logits is None:
        return []
    logits = output.logits[row].float()
    chances = model.probabilities(logits[None])[0]
    best = logits.topk(min(k, len(logits)))
    names = model.class_names
    return [
        (names[i] if names and i < len(names) else f"class {i}", value, chances[i].item())
        for value, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


# ── one batch ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _outcomes(
    model: VisionModel,
    images: Sequence[ImageLike],
    start: int,
    tools: list[Method],
    targets: list[TargetLike],
    max_pixels: int,
) -> Iterator[Outcome]:
    """Outcomes of one batch of photos, read one by one so that a bad file costs only itself."""
    sources = [_source(image, start + i) for i, image in enumerate(images)]
    read: dict[int, Image.Image] = {}
    errors: dict[int, SeewhyError] = {}
    for i, image in enumerate(images):
        try:
            read[i] = load_image(image, max_pixels=max_pixels)
        except SeewhyError as error:
            errors[i] = error
    good = dict(
        zip(read, _try_together(model, list(read.values()), [sources[i] for i in read], tools, targets), strict=True)
    )
    for i, source in enumerate(sources):
        yield good[i] if i in good else Outcome(source, error=errors[i])


def _try_together(
    model: VisionModel, pictures: list[Image.Image], sources: list[str], tools: list[Method], targets: list[TargetLike]
) -> list[Outcome]:
    """All in one batch; if that fails, one by one, to find out which are to blame."""
    if not pictures:
        return []
    try:
        return _together(model, pictures, sources, tools, targets)
    except SeewhyError as error:
        if len(pictures) == 1:
            return [Outcome(sources[0], error=error)]
    return [_try_together(model, [p], [s], tools, targets)[0] for p, s in zip(pictures, sources, strict=True)]


def _together(
    model: VisionModel, pictures: list[Image.Image], sources: list[str], tools: list[Method], targets: list[TargetLike]
) -> list[Outcome]:
    x = model.preprocess_batch(pictures)
    output = model.forward_checked(x)
    goals = [_settled(model, _truth(sources) if _is_truth(target) else target, output, len(x)) for target in targets]
    columns = [_column(model, tool, x, goals, output, pictures, sources) for tool in tools]
    return [
        Outcome(
            source, [[column[t][i] for column in columns] for t in range(len(goals))], top_answers(model, output, i)
        )
        for i, source in enumerate(sources)
    ]


def _column(
    model: VisionModel,
    tool: Method,
    x: Tensor,
    goals: list[Target],
    output: Output,
    pictures: list[Image.Image],
    sources: list[str],
) -> list[list[Explanation]]:
    """One method's explanations for each target, of each picture."""
    if not tool.card.class_specific:
        return _run(model, tool, x, [None], output, pictures, sources) * len(goals)
    step = max(1, TOGETHER // len(x)) if tool.shares_forwards else 1
    return [
        maps
        for start in range(0, len(goals), step)
        for maps in _run(model, tool, x, goals[start : start + step], output, pictures, sources)
    ]


def _explain_batch(
    model: VisionModel, tool: Method, pictures: list[Image.Image], sources: list[str], target: TargetLike
) -> list[Explanation]:
    x = model.preprocess_batch(pictures)
    if not tool.card.class_specific:
        return _run(model, tool, x, [None], None, pictures, sources)[0]
    goal = model.as_target(target)
    output = model.forward_checked(x) if goal.depends_on_output else None
    goal = _settled(model, goal, output, len(x))
    return _run(model, tool, x, [goal], output, pictures, sources)[0]


def _settled(model: VisionModel, target: TargetLike, output: Output | None, batch: int) -> Target:
    goal = model.as_target(target)
    goal.check(batch, model.classes)
    return goal.fixed(output) if goal.depends_on_output else goal


def _run(
    model: VisionModel,
    tool: Method,
    x: Tensor,
    goals: Sequence[Target | None],
    output: Output | None,
    pictures: list[Image.Image],
    sources: list[str],
) -> list[list[Explanation]]:
    """The explanations of one call of the method: for each target, of each picture."""
    started = time.perf_counter()
    maps = _maps(tool, x, goals).cpu()
    seconds = (time.perf_counter() - started) / len(maps)
    return [
        [
            Explanation(
                attribution=maps[t * len(x) + i],
                method=tool.card.name,
                model=model.name,
                target=_describe(model, tool, goal, output, i),
                layer=tool.cut_layer.name if tool.cut_layer else None,
                options=tool.options,
                image=model.visible_region(pictures[i]),
                signed=tool.card.signed,
                seconds=seconds,
                source=sources[i],
                input_size=tuple(x.shape[-2:]),
            )
            for i in range(len(x))
        ]
        for t, goal in enumerate(goals)
    ]


def _maps(tool: Method, x: Tensor, goals: Sequence[Target | None]) -> Tensor:
    """The maps of all pictures for the first target, then for the next."""
    if len(goals) == 1:
        return tool(x, goals[0])
    rows = range(len(x))
    return tool(x, [goal.at([row]) for goal in goals for row in rows], image_index=tiled_rows(len(x), len(goals)))


def _describe(model: VisionModel, tool: Method, goal: Target | None, output: Output | None, row: int) -> dict[str, Any]:
    if goal is None or not tool.card.class_specific:
        return {"kind": "none", "label": ""}
    about = goal.describe(row, model.class_names)
    if output is not None and output.logits is not None and "index" in about and about["kind"] == "class":
        about["logit"] = output.logits[row, about["index"]].item()
        about["score"] = model.probabilities(output.logits[row : row + 1].float())[0, about["index"]].item()
    return about


# ── what was given ────────────────────────────────────────────────────────────────────────────────────────────────────


def _is_single(image: Any) -> bool:
    if isinstance(image, (str, Path)):
        return not Path(image).is_dir()
    if isinstance(image, (np.ndarray, Tensor)):
        return image.ndim < 4
    return isinstance(image, Image.Image)


def _sources(image: Any, count: int) -> list[str]:
    if isinstance(image, (str, Path)) and Path(image).is_dir():
        return [str(path) for path in image_paths(Path(image))]
    items = image if isinstance(image, (list, tuple)) and len(image) == count else [image] * count
    return [_source(item, i) for i, item in enumerate(items)]


def _source(image: Any, number: int) -> str:
    return str(image) if isinstance(image, (str, Path)) else f"image {number}"


def _one_for_each(target: TargetLike, count: int) -> list | None:
    """The per-image targets, if that is what was given."""
    if hasattr(target, "tolist"):
        target = target.tolist()
    if not isinstance(target, (list, tuple)):
        return None
    if len(target) not in (1, count):
        raise TargetError(f"{len(target)} targets for {count} images; give one target, or one for each image")
    return list(target) * (count if len(target) == 1 else 1)


def _is_truth(target: TargetLike) -> bool:
    return isinstance(target, str) and target.strip().lower() == "truth"


def _truth(sources: list[str]) -> list[str]:
    return [Path(source).parent.name for source in sources]

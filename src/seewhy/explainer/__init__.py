"""The front door: images in, explanations out.

`explain` is `explain_each` with one method and one target; targets are settled in one place (`_Run`).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from seewhy.core.images import MAX_PIXELS, ImageLike, ReadImage, load_image
from seewhy.core.preprocess import Preprocess
from seewhy.core.streams import AnyImage, Images, Lazy, Prepared, as_stream, read_ahead
from seewhy.core.volumes import Volume, opened_volume, shown_levels
from seewhy.errors import ImageError, OptionError, SeewhyError, TargetError
from seewhy.explanation import Explanation
from seewhy.explanation.volume import VolumeExplanation
from seewhy.methods.base import Method
from seewhy.methods.factory import MethodLike, as_method
from seewhy.models.adapter import VisionModel
from seewhy.targets import Output, Target, TargetLike, tiled_rows

MAPS_PER_CALL = 64
"""Upper bound of the maps (images × targets) that a method makes in one call where targets share its forwards."""

TARGETS_PER_BACKWARD = 8
"""As `MAPS_PER_CALL`, of methods with gradients: what a backward needs is kept while the next target has its own."""

MOST_AHEAD = 8
"""How many images are decoded before the model needs them, at most: each may be large."""


class ConstantMapWarning(UserWarning):
    """A map has one value everywhere: it says nothing about where."""


class Answer(NamedTuple):
    """One class that a model answers, or one quantity.

    Attributes:
        label: Its name.
        logit: Its logit, or its value.
        probability: Its probability; None for a quantity.
    """

    label: str
    logit: float
    probability: float | None


@dataclass
class Outcome:
    """Result for one image of many: its explanations, or the error.

    Attributes:
        source: The path, or a number for images from memory.
        explanations: One row for each target, one column for each method.
        top: The model's own answers, best first; empty without class scores.
        error: Why there are no explanations, if there are none.
    """

    source: str
    explanations: list[list[Explanation]] = field(default_factory=list[list[Explanation]])
    top: list[Answer] = field(default_factory=list[Answer])
    error: SeewhyError | None = None


@overload
def explain(
    model: VisionModel,
    image: ImageLike,
    method: MethodLike | None = None,
    target: TargetLike = None,
    *,
    batch_size: int = 16,
    max_pixels: int = MAX_PIXELS,
    **options: Any,
) -> Explanation: ...
@overload
def explain(
    model: VisionModel,
    image: Iterable[ImageLike] | Dataset[Any] | DataLoader[Any],
    method: MethodLike | None = None,
    target: TargetLike = None,
    *,
    batch_size: int = 16,
    max_pixels: int = MAX_PIXELS,
    **options: Any,
) -> list[Explanation]: ...
def explain(
    model: VisionModel,
    image: Images,
    method: MethodLike | None = None,
    target: TargetLike = None,
    *,
    batch_size: int = 16,
    max_pixels: int = MAX_PIXELS,
    **options: Any,
) -> Explanation | list[Explanation]:
    """Explain one image, or each of several.

    Args:
        model: A model of `seewhy.load_model` or `seewhy.wrap`.
        image: A path, PIL image, array or tensor (an image, not a preprocessed batch; of a 3-D model a volume, see
            `seewhy.core.volumes.opened_volume`); a list or generator of them
            (`seewhy.image_paths("images/")` lists a folder), or a shell pattern (`"images/**/*.png"`); a `Dataset`,
            whose labels are left aside; or a `DataLoader`, whose batches are the model's inputs as they are. Levels and
            channels that 8-bit RGB cannot hold reach the model's preprocessing as they came.
        method: A name of `seewhy.list_methods()`, a method class or a configured method; by default the
            first of `seewhy.methods.factory.DEFAULTS` that can serve the model.
        target: What is explained, see `seewhy.targets.as_target`; a list has one target for each image.
        batch_size: Images per forward pass.
        max_pixels: The largest image that is decoded.
        **options: Options of the method (`layer=`, `n_samples=` …). A type checker knows those of a method's class:
            `explain(model, image, GradCAM(model, layer=-1))`.

    Returns:
        An `Explanation` for one image (of a volume a `VolumeExplanation`), a list for several.

    Raises:
        ImageError: An image cannot be read.
        TargetError: The target does not exist for this model.
        RequirementError: The method cannot serve the model.
        UnknownNameError: There is no method, class or layer of that name.
        OptionError: The method has no such option, or it cannot have this value.
        NonFiniteError: The model, or the map, gives NaN or infinity.

    Warns:
        ConstantMapWarning: A map has the same value everywhere.
    """
    configured = as_method(model, method, **options)
    images, single = as_stream(image, model.structure.axes)
    run = _Run(model, [configured], [target], batch_size, max_pixels, with_answers=False)
    explanations = [_explanation_of(outcome) for outcome in run.over(images)]
    if not explanations:
        raise ImageError("no images given; pass at least one")
    for explanation in explanations:
        if explanation.is_constant:
            warnings.warn(explanation.constant_advice, ConstantMapWarning, stacklevel=2)
    return explanations[0] if single else explanations


def compare(
    model: VisionModel,
    image: ImageLike,
    methods: Sequence[MethodLike],
    targets: Sequence[TargetLike] = (None,),
    *,
    max_pixels: int = MAX_PIXELS,
) -> list[list[Explanation]]:
    """Explain one image by several methods.

    Args:
        model: A model of `seewhy.load_model` or `seewhy.wrap`.
        image: A path, PIL image, array or tensor.
        methods: Names, method classes or configured methods.
        targets: What is explained; `seewhy.targets.top(3)` stands for the model's three best classes.
        max_pixels: The largest image that is decoded.

    Returns:
        One row for each target, one column for each method.

    Raises:
        SeewhyError: As for `explain`.
    """
    (outcome,) = explain_each(model, [image], methods, targets, max_pixels=max_pixels)
    if outcome.error:
        raise outcome.error
    return outcome.explanations


def explain_each(
    model: VisionModel,
    images: Iterable[ImageLike] | Dataset[Any] | DataLoader[Any],
    methods: Sequence[MethodLike],
    targets: Sequence[TargetLike] = (None,),
    *,
    batch_size: int = 16,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Outcome]:
    """Explain many images; a bad one becomes an outcome with its error, and the others still come out.

    Args:
        model: A model of `seewhy.load_model` or `seewhy.wrap`.
        images: Paths, PIL images, arrays or tensors, in whatever `explain` takes them.
        methods: Names, method classes or configured methods.
        targets: What is explained, each for all images (or a list with one for each image).
        batch_size: Images per forward pass.
        max_pixels: The largest image that is decoded.

    Returns:
        An iterator over the outcomes, one for each image, in order.

    Raises:
        SeewhyError: A method or target cannot work for any image (before the first one).
    """
    configured = [as_method(model, method) for method in methods]
    stream, _ = as_stream(images, model.structure.axes)
    return _Run(model, configured, targets, batch_size, max_pixels, with_answers=True).over(stream)


def top_answers(model: VisionModel, output: Output, row: int = 0, k: int = 5) -> list[Answer]:
    """Return the model's k best answers for one image of a batch; of quantities the first k."""
    if output.logits is None:
        return []
    logits = output.logits[row].float()
    k = min(k, len(logits))
    names = model.class_names
    if model.structure.regression:
        values = logits[:k].tolist()
        return [Answer(names[i] if names else f"output {i}", value, None) for i, value in enumerate(values)]
    probabilities = model.probabilities(logits[None])[0]
    best = logits.topk(k)
    return [
        Answer(names[i] if names and i < len(names) else f"class {i}", logit, probabilities[i].item())
        for logit, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


class _Seen(NamedTuple):
    """What the model saw of one image.

    Attributes:
        view: The region, for people; of a volume its gray levels in [0, 1].
        box: Its place in the image: left, top, right, bottom; None: not known.
        size: Rows and columns of the image, of a volume depth as well.
    """

    view: Image.Image | np.ndarray
    box: tuple[float, float, float, float] | None
    size: tuple[int, ...] | None


class _Made(NamedTuple):
    """Maps of a batch by one method.

    Attributes:
        method: The method.
        rows: For each target, the maps of all images.
        seconds: Time per map.
        answer: What the model answered, if it was asked on the way.
    """

    method: Method
    rows: list[Tensor]
    seconds: float
    answer: Output | None


class _Batch(NamedTuple):
    """Images that go through the model together.

    Attributes:
        images: What was read.
        sources: Where each comes from.
        rows: Their places among all images of the run, for targets with one entry for each image.
    """

    images: list[ReadImage | Volume | Prepared]
    sources: list[str]
    rows: list[int]

    def one_by_one(self) -> Iterator[_Batch]:
        for image, source, row in zip(self.images, self.sources, self.rows, strict=True):
            yield _Batch([image], [source], [row])

    def inputs(self, model: VisionModel) -> Tensor:
        """Return the model's inputs: of a DataLoader as they are, of images by the model's preprocessing."""
        tensors = [image.tensor for image in self.images if isinstance(image, Prepared)]
        if tensors:
            return torch.stack(tensors).to(model.device, model.dtype)
        return model.preprocess_batch([image for image in self.images if not isinstance(image, Prepared)])

    def seen(self, model: VisionModel, x: Tensor) -> Callable[[], list[_Seen]]:
        """Return what tells what the model saw, once that is needed: an input that breaks the model has no view."""
        return cache(lambda: [_seen(model, image, x[i]) for i, image in enumerate(self.images)])


def _seen(model: VisionModel, image: ReadImage | Volume | Prepared, x: Tensor) -> _Seen:
    if model.structure.volume or isinstance(image, Volume):
        return _Seen(shown_levels(x), None, image.size if isinstance(image, Volume) else None)
    if not isinstance(image, Prepared):
        return _Seen(model.visible_region(image), model.box(image), (image.height, image.width))
    pixels = image.tensor.float()
    if isinstance(model.preprocess, Preprocess) and model.preprocess.channels == len(pixels):
        pixels = model.preprocess.denormalize(pixels)
    else:
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()).clamp(min=1e-12)
    return _Seen(load_image(pixels if len(pixels) in (1, 3) else pixels[:1]), None, None)


class _Run:
    """One pass over images with the same methods and targets."""

    def __init__(
        self,
        model: VisionModel,
        methods: Sequence[Method],
        targets: Sequence[TargetLike],
        batch_size: int,
        max_pixels: int,
        with_answers: bool,
    ) -> None:
        if batch_size < 1:
            raise OptionError(f"batch_size={batch_size} is too small; use 1 or more")
        self.model = model
        self.methods = methods
        self.batch_size = batch_size
        self.max_pixels = max_pixels
        self.with_answers = with_answers
        self.rows = len(targets)
        needs_target = with_answers or any(method.card.class_specific for method in methods)
        self.targets = [model.as_target(target) for target in targets] if needs_target else []

    def over(self, images: Sequence[AnyImage] | Lazy[AnyImage]) -> Iterator[Outcome]:
        """Check what can be checked before the first forward, then yield the outcomes."""
        if isinstance(images, Lazy) and not all(self._fits_any_number(target) for target in self.targets):
            images = list(images)
        if not isinstance(images, Lazy):
            for target in self.targets:
                target.check(len(images), self.model.classes)
        return self._outcomes(images)

    def _fits_any_number(self, target: Target) -> bool:
        try:
            target.check(1, self.model.classes)
        except TargetError:
            return False
        return True

    def _outcomes(self, images: Sequence[AnyImage] | Lazy[AnyImage]) -> Iterator[Outcome]:
        ahead = 0 if isinstance(images, Sequence) and len(images) < 2 else min(self.batch_size, MOST_AHEAD)
        read = enumerate(read_ahead(images, self._opened, ahead))
        while pairs := list(islice(read, self.batch_size)):
            batch = _Batch([], [], [])
            outcomes: dict[int, Outcome] = {}
            for row, (image, result) in pairs:
                source = _source(image, row)
                if isinstance(result, SeewhyError):
                    outcomes[row] = Outcome(source, error=result)
                    continue
                batch.images.append(result)
                batch.sources.append(source)
                batch.rows.append(row)
            outcomes.update(zip(batch.rows, self._explained(batch), strict=True))
            yield from (outcomes[row] for row in sorted(outcomes))

    def _opened(self, image: AnyImage) -> Callable[[], ReadImage | Volume | Prepared]:
        if isinstance(image, Prepared):
            return lambda: image
        if self.model.structure.volume:
            return opened_volume(image, self.model.channels)
        return self.model.opened(image, self.max_pixels)

    def _explained(self, batch: _Batch) -> list[Outcome]:
        """Explain all images in one batch; if that fails, one by one, to find out which are to blame."""
        if not batch.images:
            return []
        try:
            return self._explain_batch(batch)
        except SeewhyError as error:
            if len(batch.images) == 1:
                return [Outcome(batch.sources[0], error=error)]
        return [self._explained(one)[0] for one in batch.one_by_one()]

    def _explain_batch(self, batch: _Batch) -> list[Outcome]:
        x = batch.inputs(self.model)
        seen = batch.seen(self.model, x)
        targets = [self._at(target, batch) for target in self.targets]
        output, made = self._answer(x, targets)
        if output is not None:
            targets = [target.fixed(output) for target in targets]
        columns: list[list[list[Explanation]]] = []
        for method in self.methods:
            maps = made if made is not None and made.method is method else self._made(method, x, targets)
            columns.append(self._column(maps, targets, output, x, batch, seen))
        return [
            Outcome(
                source,
                [[column[t][i] for column in columns] for t in range(self.rows)],
                top_answers(self.model, output, i) if self.with_answers and output is not None else [],
            )
            for i, source in enumerate(batch.sources)
        ]

    def _answer(self, x: Tensor, targets: list[Target]) -> tuple[Output | None, _Made | None]:
        """Return the model's answer where it is needed, and the maps of the method that told it, if one could."""
        if not self.with_answers and not any(target.depends_on_output for target in self.targets):
            return None, None
        teller = next((method for method in self.methods if method.tells_the_answer), None)
        if teller is None:
            return self.model.forward_checked(x), None
        made = self._made(teller, x, targets, with_answer=True)
        if made.answer is None:
            return self.model.forward_checked(x), made
        return self.model.ensure_finite(made.answer), made

    def _made(self, method: Method, x: Tensor, targets: list[Target], with_answer: bool = False) -> _Made:
        """Make the maps of all images by one method, for each target."""
        started = time.perf_counter()
        if not method.card.class_specific:
            maps, answer = method.complete_maps(x) if with_answer else (method(x), None)
            seconds = (time.perf_counter() - started) / len(maps)
            return _Made(method, [maps.cpu()] * self.rows, seconds, answer)
        step = 1
        if method.shares_forwards:
            step = max(1, (TARGETS_PER_BACKWARD if method.shares_gradients else MAPS_PER_CALL) // len(x))
        rows: list[Tensor] = []
        answer = None
        for start in range(0, len(targets), step):
            some = targets[start : start + step]
            if answer is not None:
                some = [target.fixed(answer) for target in some]
            maps, told = _maps(method, x, some)
            if with_answer and answer is None and told is not None:
                answer = told.map(lambda value: value[: len(x)])
            rows += maps.cpu().unflatten(0, (len(some), -1))
        seconds = (time.perf_counter() - started) / (len(rows) * len(x))
        return _Made(method, rows, seconds, answer)

    def _at(self, target: Target, batch: _Batch) -> Target:
        """Return the target of the images of a batch, with what their files tell."""
        settled = target.at(batch.rows).of_sources(batch.sources, self.model.class_names)
        settled.check(len(batch.images), self.model.classes)
        return settled

    def _column(
        self,
        made: _Made,
        targets: list[Target],
        output: Output | None,
        x: Tensor,
        batch: _Batch,
        seen: Callable[[], list[_Seen]],
    ) -> list[list[Explanation]]:
        """Return the explanations of one method: a row for each target, one for each image; label-free ones are one."""
        if not made.method.card.class_specific:
            return [self._row(made, made.rows[0], None, output, x, batch, seen)] * self.rows
        pairs = zip(made.rows, targets, strict=True)
        return [self._row(made, maps, target, output, x, batch, seen) for maps, target in pairs]

    def _row(
        self,
        made: _Made,
        maps: Tensor,
        target: Target | None,
        output: Output | None,
        x: Tensor,
        batch: _Batch,
        seen: Callable[[], list[_Seen]],
    ) -> list[Explanation]:
        """Return an explanation for each image and one target."""
        method = made.method
        return [
            _kind(x)(
                attribution=maps[i],
                method=method.card.name,
                model=self.model.name,
                target=self._describe(method, target, output, i),
                layer=method.layer_name,
                options=method.options,
                **_view(seen()[i]),
                box=seen()[i].box,
                image_size=seen()[i].size,
                signed=method.is_signed,
                seconds=made.seconds,
                source=batch.sources[i],
                input_size=tuple(x.shape[2:]),
            )
            for i in range(len(x))
        ]

    def _describe(self, method: Method, target: Target | None, output: Output | None, row: int) -> dict[str, Any]:
        if target is None or not method.card.class_specific:
            return {"kind": "none", "label": ""}
        description = target.describe(row, self.model.class_names)
        if output is None or output.logits is None:
            return description
        if description["kind"] == "output":
            description["value"] = output.logits[row, description["index"]].item()
        if description["kind"] == "class":
            index = description["index"]
            probabilities = self.model.probabilities(output.logits[row : row + 1].float())
            description["logit"] = output.logits[row, index].item()
            description["score"] = probabilities[0, index].item()
        return description


def _kind(x: Tensor) -> type[Explanation]:
    return VolumeExplanation if x.ndim == 5 else Explanation


def _view(seen: _Seen) -> dict[str, Any]:
    return {"volume": seen.view} if isinstance(seen.view, np.ndarray) else {"image": seen.view}


def _maps(method: Method, x: Tensor, targets: Sequence[Target]) -> tuple[Tensor, Output | None]:
    """Return the maps of all images for the first target, then for the next, and what the model answered."""
    if len(targets) == 1:
        return method.maps_and_answer(x, targets[0])
    each = [target.at([row]) for target in targets for row in range(len(x))]
    return method.maps_and_answer(x, each, image_index=tiled_rows(len(x), len(targets)))


def _explanation_of(outcome: Outcome) -> Explanation:
    if outcome.error:
        raise outcome.error
    return outcome.explanations[0][0]


def _source(image: AnyImage, number: int) -> str:
    return str(image) if isinstance(image, str | Path) else f"image {number}"

"""What every metric shares: one value per map, never a guess where there is none.

A map that cannot be scored (an empty mask, NaN, no second class) gets NaN and a reason; its neighbors in the batch are
scored as if it were not there. Nothing is normalized over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar, dataclass_transform

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seewhy.core.cards import REQUIREMENT_TEXT, MetricCard, Requirement, folder_of
from seewhy.core.maps import resize_maps as resize_maps
from seewhy.core.options import check_options, option, options_of
from seewhy.core.registry import Registry
from seewhy.errors import OptionError
from seewhy.models.adapter import VisionModel
from seewhy.targets import TargetLike

T = TypeVar("T")
M = TypeVar("M", bound="Metric")
TRUTH = ("masks", "objects", "valid", "boxes", "labels", "contrast_maps")
"""The fields of `MetricInputs` that say what is true of the images' rows; the others are the images and the model."""


METRICS: Registry[type[Metric]] = Registry(
    "metric", package="seewhy.metrics", group="seewhy.metrics", hint="`seewhy metrics` lists them"
)
"""Every metric by name: those of this package and those that other installed packages declare."""


def _no_pass(_: Any) -> int:
    return 0


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(option,))
def metric(
    *,
    name: str,
    title: str,
    summary: str,
    needs: set[Requirement],
    bounds: tuple[float | None, float | None],
    higher_is_better: bool | None,
    citation: str,
    property: str | None = None,
    passes: Callable[[Any], int] = _no_pass,
    parts: dict[str, bool | None] | None = None,
    aggregates: dict[str, bool | None] | None = None,
    monotone_invariant: bool = False,
    scale_invariant: bool = True,
    stochastic: bool = False,
    register: bool = True,
) -> Callable[[type[M]], type[M]]:
    """Make a class a metric: a dataclass of its options with a card, entered in `METRICS`.

    The arguments are the fields of `MetricCard`; `property` is by default the folder that the class is written in.
    `register=False` gives a metric that works but is in no list.
    """

    def decorate(cls: type[M]) -> type[M]:
        made = dataclass(kw_only=True, eq=False)(cls)
        made.card = MetricCard(
            name=name,
            title=title,
            property=property or folder_of(cls),
            summary=summary,
            needs=frozenset(needs),
            bounds=bounds,
            higher_is_better=higher_is_better,
            citation=citation,
            passes=passes,
            parts=parts or {},
            aggregates=aggregates or {},
            monotone_invariant=monotone_invariant,
            scale_invariant=scale_invariant,
            stochastic=stochastic,
        )
        if register:
            METRICS.add(name, made)
        return made

    return decorate


@dataclass(eq=False)
class MetricInputs:
    """What is known of a batch of maps beside the maps; one object for all maps (of any method) of the same images.

    Attributes:
        masks: the object that each map should show, at the maps' size.
        objects: for each image, one mask for each of its objects.
        valid: pixels that count; elsewhere (a border that nobody labeled) neither map nor mask is looked at, but a NaN
            anywhere makes a map a bad one.
        boxes: for each image, the boxes of the objects that the map should show: left, top, right, bottom in pixels
            of the map, right and bottom not included.
        model, x, target: the model, its preprocessed input and what was explained.
        labels: the true class of each image (the class of the object in `masks`), as the model counts; -1: unknown.
        contrast_maps: for each map the same method's map for another class that the image shows; NaN where there is none.
        method: the method that made the maps, configured.
        cache: results about the images and their targets that several metrics or several maps share (`cached`).
    """

    masks: Bool[Tensor, "batch rows cols"] | None = None
    objects: Sequence[Bool[Tensor, "_ rows cols"]] | None = None
    valid: Bool[Tensor, "batch rows cols"] | None = None
    boxes: Sequence[Float[Tensor, "_ 4"]] | None = None
    model: VisionModel | None = None
    x: Float[Tensor, "batch channels height width"] | None = None
    target: TargetLike = None
    labels: Int[Tensor, "batch"] | None = None
    contrast_maps: Float[Tensor, "batch rows cols"] | None = None
    method: Any = None
    cache: dict[Hashable, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model is not None and self.x is not None:
            self.target = self.model.as_target(self.target)
            if self.target.depends_on_output:
                self.target = self.target.fixed(self.model.forward_checked(self.x))

    @property
    def available(self) -> frozenset[Requirement]:
        """What a metric can ask for."""
        here = {
            Requirement.MASK: self.masks,
            Requirement.OBJECTS: self.objects,
            Requirement.BOXES: self.boxes,
            Requirement.LABEL: self.labels,
            Requirement.MODEL: None if self.x is None else self.model,
            Requirement.CONTRAST: self.contrast_maps,
            Requirement.METHOD: self.method,
        }
        return frozenset(ask for ask, value in here.items() if value is not None)

    def cached(self, key: Hashable, compute: Callable[[], T]) -> T:
        """`compute()`, or what it gave the first time for this key."""
        if key not in self.cache:
            self.cache[key] = compute()
        return self.cache[key]


@dataclass(eq=False)
class Measurement:
    """What a metric finds for a batch of maps.

    Attributes:
        value: one number per map, float64 on the maps' device; NaN where there is none.
        parts: further numbers, by the names of `card.parts`.
        curves: for the main value ("") or a part, the curve that the number is the area of; abscissa in `Metric.axis`.
        reasons: for each row without a value, why.
    """

    value: Float[Tensor, "batch"]
    parts: dict[str, Float[Tensor, "batch"]] = field(default_factory=dict)
    curves: dict[str, Float[Tensor, "batch points"]] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)


@dataclass(eq=False)
class Metric:
    """One number per map. Subclasses are dataclasses of their options and implement `score`.

    Raises:
        OptionError: an option cannot have this value.
    """

    card: ClassVar[MetricCard]

    def __post_init__(self) -> None:
        check_options(self)

    def score(self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs) -> Measurement:
        """The numbers. Every map is finite, and every row has what the card asks for (see `bad_rows`).

        The model may still say NaN of an image: such a row's value is NaN, with a reason.
        """
        raise NotImplementedError

    @staticmethod
    def aggregate(values: dict[str, Float[Tensor, "maps"]]) -> dict[str, float]:
        """What the card's `whole` names, of a set of maps: "" is the value of each map, other keys are its parts."""
        return {}

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Rows for which the formula has no value (0/0), by the reason; joins the checks in their one synchronization.

        The maps may still hold NaN here: such rows have their reason already.
        """
        return {}

    @property
    def axis(self) -> list[float] | None:
        """The abscissa of the curves, if the metric draws any."""
        return None

    @property
    def axis_title(self) -> str:
        """What the abscissa counts."""
        return ""

    @property
    def options(self) -> dict[str, Any]:
        """The options, JSON-able, for manifests."""
        return {name: getattr(self, name) for name in options_of(type(self))}

    @property
    def passes(self) -> int:
        """Forward passes of the model per map with these options."""
        return self.card.passes(self)

    def bad_rows(self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs) -> dict[int, str]:
        """Rows that cannot be scored, and why: a map with NaN, an empty mask, no objects, no other class."""
        return _bad_rows(maps, given, self.card.needs, self.undefined(maps.detach(), given))

    def __call__(
        self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs | None = None, **known: Any
    ) -> Float[Tensor, "batch"]:
        """One number per map; NaN where there is none (`measure` says why).

        Args:
            maps: un-normalized, at the size of the masks (and of the model's input, where the model is asked).
            given: what is known beside the maps, or its fields as keywords (`masks=…`, `model=…, x=…, target=…`).

        Raises:
            OptionError: something that the metric needs was not given, or has another size or batch.
        """
        return self.measure(maps, given, **known).value

    def measure(
        self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs | None = None, **known: Any
    ) -> Measurement:
        """Values, parts and curves; arguments as for a call."""
        given = given or MetricInputs(**known)
        _check(self.card, maps, given)
        reasons = self.bad_rows(maps, given)
        if len(reasons) == len(maps):
            return self._all_nan(len(maps), maps.device, reasons)
        safe = maps.detach()
        if reasons:  # a bad row must not disturb its neighbors: it gets the first good one's map, and is struck out
            good = next(i for i in range(len(maps)) if i not in reasons)
            rows = [good if i in reasons else i for i in range(len(maps))]
            safe, given = safe[rows], _rows(given, rows)
        with torch.no_grad():
            found = self.score(safe, given)
        return _mask_invalid(found, {**found.reasons, **reasons})

    def _all_nan(self, batch: int, device: torch.device, reasons: dict[int, str]) -> Measurement:
        empty = torch.full((batch,), torch.nan, dtype=torch.float64, device=device)
        return Measurement(empty, {name: empty.clone() for name in self.card.parts}, {}, reasons)


def _check(card: MetricCard, maps: Any, given: MetricInputs) -> None:
    if not isinstance(maps, Tensor) or maps.ndim != 3 or not len(maps) or not maps.is_floating_point():
        got = f"{maps.dtype} {tuple(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
        raise OptionError(f"a metric takes float maps (B, rows, cols), not {got}; give one or more, un-normalized")
    missing = [REQUIREMENT_TEXT[ask] for ask in sorted(card.needs - given.available)]
    if missing:
        raise OptionError(f"{card.title} needs {' and '.join(missing)}; pass it to the call")
    for name in ("objects", "boxes", "labels"):
        value = getattr(given, name)
        if value is not None and len(value) != len(maps):
            raise OptionError(f"{name} are for {len(value)} images, the maps for {len(maps)}; give one for each map")
    for name in ("masks", "valid", "contrast_maps"):
        if (value := getattr(given, name)) is not None:
            _check_pixels(name, value, maps.shape, truth=name != "contrast_maps")
    for i, each in enumerate(() if given.objects is None else given.objects):
        _check_pixels(f"objects[{i}]", each, (len(each), *maps.shape[1:]), truth=True)
    if given.labels is not None and not isinstance(given.labels, Tensor):
        raise OptionError(f"labels are a {type(given.labels).__name__}; pass a tensor of class numbers, -1 if unknown")
    if Requirement.MODEL in card.needs and (len(given.x) != len(maps) or given.x.shape[-2:] != maps.shape[-2:]):
        raise OptionError(
            f"the input has the shape {tuple(given.x.shape)}, the maps {tuple(maps.shape)}; "
            "bring the maps to the input's size first (seewhy.metrics.resize_maps)"
        )


def _check_pixels(name: str, value: Any, shape: tuple[int, ...], truth: bool) -> None:
    """Masks of numbers are refused: 255 may be an object or nobody's, and `~` of 1 is 254."""
    if not isinstance(value, Tensor) or (value.dtype == torch.bool) != truth:
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise OptionError(f"{name} are {got}; pass a tensor of {'bools, such as masks == 1' if truth else 'floats'}")
    if value.shape != shape:
        raise OptionError(
            f"{name} have the shape {tuple(value.shape)}, not {tuple(shape)}; "
            "resize the maps first (seewhy.metrics.resize_maps)"
        )


def _bad_rows(
    maps: Tensor, given: MetricInputs, needs: frozenset[Requirement], undefined: dict[str, Tensor]
) -> dict[int, str]:
    """One synchronization for all checks."""
    flags = {"the map holds NaN or infinity": ~torch.isfinite(maps).flatten(1).all(1)}
    if Requirement.MASK in needs:
        masks = given.masks if given.valid is None else given.masks & given.valid
        flags["the mask is empty"] = ~masks.flatten(1).any(1)
    if Requirement.CONTRAST in needs:
        flags["the image shows no second class"] = ~torch.isfinite(given.contrast_maps).flatten(1).all(1)
    if Requirement.LABEL in needs:
        flags["the true class is not known"] = given.labels < 0
    flags.update(undefined)
    table = torch.stack([flag.to(maps.device) for flag in flags.values()]).tolist()
    reasons = {}
    for why, row in zip(flags, table, strict=True):
        for i, bad in enumerate(row):
            if bad:
                reasons.setdefault(i, why)
    if Requirement.OBJECTS in needs:
        reasons.update({i: "the image has no objects" for i, o in enumerate(given.objects) if not len(o)})
    if Requirement.BOXES in needs:
        reasons.update({i: "the image has no boxes" for i, o in enumerate(given.boxes) if not len(o)})
    return reasons


def _rows(given: MetricInputs, rows: list[int]) -> MetricInputs:
    """Other rows' truth for the same images: what the model said of them (`cache`) holds whichever map is bad."""
    return replace(given, **{name: picked(getattr(given, name), rows) for name in TRUTH})


def picked(value: Any, rows: list[int]) -> Any:
    """Some rows of a tensor or list; of nothing, nothing."""
    return value if value is None else value[rows] if isinstance(value, Tensor) else [value[i] for i in rows]


def _mask_invalid(found: Measurement, reasons: dict[int, str]) -> Measurement:
    """The rows with a reason set to NaN."""
    if not reasons:
        return found
    value, parts, curves = (
        found.value.clone(),
        *({k: v.clone() for k, v in each.items()} for each in (found.parts, found.curves)),
    )
    for each in (value, *parts.values(), *curves.values()):
        each[sorted(reasons)] = torch.nan
    return Measurement(value, parts, curves, reasons)


def ranks(values: Float[Tensor, "batch n"]) -> Int[Tensor, "batch n"]:
    """Positions from most to least important; ties keep the order of the pixels, row by row."""
    return values.argsort(dim=1, descending=True, stable=True)


__all__ = ["Measurement", "Metric", "MetricInputs", "option", "ranks", "resize_maps"]

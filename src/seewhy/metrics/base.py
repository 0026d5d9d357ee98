"""Base of metrics: one value per map, never a guess where there is none.

A map that cannot be scored (an empty mask, NaN, no second class) gets NaN and a reason; its neighbors in the batch are
scored as if it were not there. Nothing is normalized over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, dataclass_transform

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.cards import MetricCard, Requirement, folder_of
from seewhy.core.maps import resize_maps as resize_maps
from seewhy.core.options import Configurable, check_options, option, options_of
from seewhy.core.registry import Registry
from seewhy.metrics.inputs import MetricInputs, check_inputs, find_invalid_rows

M = TypeVar("M", bound="Metric")

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
    unit: str = "",
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
        decorated = dataclass(kw_only=True, eq=False)(cls)
        decorated.card = MetricCard(
            name=name,
            title=title,
            property=property or folder_of(cls),
            summary=summary,
            needs=frozenset(needs),
            bounds=bounds,
            higher_is_better=higher_is_better,
            citation=citation,
            passes=passes,
            unit=unit,
            parts=parts or {},
            aggregates=aggregates or {},
            monotone_invariant=monotone_invariant,
            scale_invariant=scale_invariant,
            stochastic=stochastic,
        )
        if register:
            METRICS.add(name, decorated)
        return decorated

    return decorate


@dataclass(eq=False)
class Measurement:
    """The result of a metric for a batch of maps.

    Attributes:
        value: One number per map, float64 on the maps' device; NaN where there is none.
        parts: Further numbers, by the names of `card.parts`.
        curves: For the main value ("") or a part, the curve that the number is the area of; abscissa in `Metric.axis`.
        reasons: For each row without a value, why.
    """

    value: Float[Tensor, "batch"]
    parts: dict[str, Float[Tensor, "batch"]] = field(default_factory=dict[str, Tensor])
    curves: dict[str, Float[Tensor, "batch points"]] = field(default_factory=dict[str, Tensor])
    reasons: dict[int, str] = field(default_factory=dict[int, str])


@dataclass(eq=False)
class Metric(Configurable):
    """One number per map. Subclasses are dataclasses of their options and implement `score`.

    Attributes:
        card: What is known of the metric before it runs.

    Raises:
        OptionError: When there is no such option, or it does not accept the value.
    """

    card: ClassVar[MetricCard]

    def __post_init__(self) -> None:
        check_options(self)

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the numbers of maps that can be scored.

        Every map is finite, and every row has what the card asks for (see `invalid_rows`). The model may still say NaN
        of an image: such a row's value is NaN, with a reason.
        """
        raise NotImplementedError

    @staticmethod
    def aggregate(values: dict[str, Float[Tensor, "maps"]]) -> dict[str, float]:
        """Compute the numbers that only a set of maps has, by the names of `card.aggregates`.

        Args:
            values: Under "" the value of each map, under other keys its parts.
        """
        return {}

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs
    ) -> Mapping[str, Bool[Tensor, "batch"]]:
        """Return the rows for which the formula has no value (0/0), by the reason.

        They join the other checks in their one synchronization with the device. The maps may still hold NaN here: such
        rows have their reason already.
        """
        return {}

    @property
    def axis(self) -> list[float] | None:
        """The abscissa of the curves, if the metric draws any."""
        return None

    @property
    def axis_title(self) -> str:
        """The label of the abscissa."""
        return ""

    @property
    def options(self) -> dict[str, Any]:
        """The options, JSON-able, for manifests."""
        return {name: getattr(self, name) for name in options_of(type(self))}

    @property
    def passes(self) -> int:
        """Forward passes of the model per map with these options."""
        return self.card.passes(self)

    def invalid_rows(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> dict[int, str]:
        """Return the rows that cannot be scored, and why: a map with NaN, an empty mask, no objects, no other class."""
        return find_invalid_rows(maps, inputs, self.card.needs, self.undefined(maps.detach(), inputs))

    def __call__(
        self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs | None = None, **fields: Any
    ) -> Float[Tensor, "batch"]:
        """Compute one number per map; NaN where there is none (`measure` says why).

        Args:
            maps: Un-normalized, at the size of the masks (and of the model's input, where the model is needed).
            inputs: What is known beside the maps.
            **fields: The fields of `MetricInputs` in its place (`masks=…`, `model=…, x=…, target=…`).

        Returns:
            float64 values, one for each map.

        Raises:
            OptionError: When something that the metric needs was not given, or has another size or batch.
        """
        return self.measure(maps, inputs, **fields).value

    def measure(
        self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs | None = None, **fields: Any
    ) -> Measurement:
        """Compute values, parts and curves; arguments and errors as for a call."""
        inputs = inputs or MetricInputs(**fields)
        check_inputs(self.card, maps, inputs)
        reasons = self.invalid_rows(maps, inputs)
        if len(reasons) == len(maps):
            return self._all_nan(len(maps), maps.device, reasons)
        maps = maps.detach()
        if reasons:  # an invalid row must not disturb its neighbors: the first valid one's map stands in for it
            valid = next(i for i in range(len(maps)) if i not in reasons)
            rows = [valid if i in reasons else i for i in range(len(maps))]
            maps, inputs = maps[rows], inputs.select(rows)
        with torch.no_grad():
            measurement = self.score(maps, inputs)
        return _mask_invalid(measurement, {**measurement.reasons, **reasons})

    def _all_nan(self, batch: int, device: torch.device, reasons: dict[int, str]) -> Measurement:
        nan = torch.full((batch,), torch.nan, dtype=torch.float64, device=device)
        return Measurement(nan, {name: nan.clone() for name in self.card.parts}, {}, reasons)


def _mask_invalid(measurement: Measurement, reasons: dict[int, str]) -> Measurement:
    """Set the rows with a reason to NaN."""
    if not reasons:
        return measurement
    rows = sorted(reasons)

    def masked(values: Tensor) -> Tensor:
        values = values.clone()
        values[rows] = torch.nan
        return values

    parts = {name: masked(values) for name, values in measurement.parts.items()}
    curves = {name: masked(values) for name, values in measurement.curves.items()}
    return Measurement(masked(measurement.value), parts, curves, reasons)


__all__ = ["METRICS", "Measurement", "Metric", "MetricInputs", "metric", "option", "resize_maps"]

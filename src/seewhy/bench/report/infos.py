"""Metrics, methods and panels of a report, read from a run's manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from seewhy.bench.manifest import REFERENCE_FAMILY


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """A metric of the manifest, or a part of one (`fidelity.mif`).

    Attributes:
        label: Name in results.
        title: Name for people.
        property_name: What the metric measures: localization, faithfulness, …
        summary: One sentence: what a good value means.
        higher_is_better: None where neither direction is better.
        citation: Paper and equation.
        options: The metric's options.
        axis: Positions of a curve's points.
        axis_title: What the axis is.
        is_part: Whether it comes with another metric.
        unit: Unit of the values; empty for shares and correlations.
        aggregate_of: Registered metric of which it is a value that only a whole set has (`box_iou.ap50`), if any.
    """

    label: str
    title: str
    property_name: str = ""
    summary: str = ""
    higher_is_better: bool | None = None
    citation: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    axis: list[float] | None = None
    axis_title: str = ""
    is_part: bool = False
    unit: str = ""
    aggregate_of: str = ""

    @property
    def arrow(self) -> str:
        """Which direction is better."""
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]

    @property
    def heading(self) -> str:
        """Title, unit and arrow."""
        unit = f"[{self.unit}]" if self.unit else ""
        return " ".join(part for part in (self.title, unit, self.arrow) if part)


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """A method of the manifest, as the run configured it.

    Attributes:
        label: Name in results.
        title: Name for people.
        is_reference: Whether it is a reference map, which does not use the model.
        signed: Whether negative values mean evidence against the target.
        citation: Paper and equation.
        cost: Passes in words.
        options: The method's options.
    """

    label: str
    title: str
    is_reference: bool = False
    signed: bool = False
    citation: str = ""
    cost: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """Scores that can be compared with each other: one model on one split of one dataset.

    Attributes:
        model: Label of the model.
        data: Name of the dataset.
        split: Split of the dataset.
    """

    model: str
    data: str
    split: str

    @property
    def key(self) -> tuple[str, str, str]:
        """Values for a query."""
        return self.model, self.data, self.split

    @property
    def title(self) -> str:
        """Model and data for people."""
        return f"{self.model} · {self.data} {self.split}".strip()


def by_label(entries: Any) -> dict[str, dict[str, Any]]:
    """Return entries by their labels.

    Args:
        entries: `{label: {...}}`, or a list of names or of tables with a label or name.
    """
    if isinstance(entries, dict):
        return {label: about if isinstance(about, dict) else {} for label, about in entries.items()}
    by_label = {}
    for entry in entries or ():
        about = entry if isinstance(entry, dict) else {}
        by_label[str(about.get("label") or about.get("name") or entry)] = about
    return by_label


def _title(label: str, card: dict[str, Any]) -> str:
    """Return the title of a method or metric; with its label where the same one is there with other options."""
    title = card.get("title", label)
    return title if label == card.get("name", label) else f"{title} ({label})"


def method_info(label: str, about: dict[str, Any]) -> MethodInfo:
    """Return what a report says of a method, from its entry in the manifest."""
    card = about.get("card") or about
    return MethodInfo(
        label=label,
        title=_title(label, card),
        is_reference=card.get("family") == REFERENCE_FAMILY,
        signed=bool(card.get("signed")),
        citation=card.get("citation", ""),
        cost=str(about.get("cost") or card.get("cost") or ""),
        options=about.get("options") or {},
    )


def metric_infos(label: str, about: dict[str, Any]) -> list[MetricInfo]:
    """Return a metric, then its parts, then its aggregates."""
    card = about.get("card") or about
    metric = MetricInfo(
        label=label,
        title=_title(label, card),
        property_name=card.get("property", ""),
        summary=card.get("summary", ""),
        higher_is_better=card.get("higher_is_better"),
        citation=card.get("citation", ""),
        options=about.get("options") or {},
        unit=card.get("unit", ""),
        axis=about.get("axis"),
        axis_title=about.get("axis_title", ""),
    )
    parts = [(name, better, "") for name, better in (card.get("parts") or {}).items()]
    parts += [(name, better, card.get("name", label)) for name, better in (card.get("aggregates") or {}).items()]
    return [
        metric,
        *(
            MetricInfo(
                label=f"{label}.{name}",
                title=f"{metric.title}: {name}",
                property_name=metric.property_name,
                higher_is_better=better,
                axis=metric.axis,
                axis_title=metric.axis_title,
                is_part=True,
                unit="" if aggregate_of else metric.unit,
                aggregate_of=aggregate_of,
            )
            for name, better, aggregate_of in parts
        ),
    ]

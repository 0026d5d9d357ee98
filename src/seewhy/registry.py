"""One frozen card per method, metric and data set, and everything else is derived from it.

The command line, the contract checks, the tests and the benchmark all read these cards; there is no second list. A
method registers itself with `@method(...)` in its own file, and `seewhy.methods` imports every file in its folders:
adding a method is adding one file. Metrics (`@metric`) and data sets (`@dataset`) likewise.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from numbers import Integral, Real
from types import NoneType
from typing import Any, Generic, TypeVar

from seewhy.errors import OptionError, UnknownNameError


class Need(StrEnum):
    """What a model can offer and a method or target can need."""

    LOGITS = "logits"
    EMBEDDING = "embedding"
    FEATURES = "features"
    TOKENS = "tokens"
    ATTENTION = "attention"
    CLASS_TOKEN = "class_token"
    LAST_BLOCK = "last_block"
    GRADIENTS = "gradients"


NEED_TEXT = {
    Need.LOGITS: "class scores",
    Need.EMBEDDING: "an embedding",
    Need.FEATURES: "feature maps on a grid",
    Need.TOKENS: "patch tokens by block",
    Need.ATTENTION: "global attention matrices",
    Need.CLASS_TOKEN: "a class token",
    Need.LAST_BLOCK: "a last transformer block with a norm before its attention",
    Need.GRADIENTS: "gradients",
}


@dataclass(frozen=True)
class Cost:
    """Passes per image, counted below and above the layer at which the method cuts the model.

    A method that does not cut has the same number on both sides. Units: passes of that part of the model.
    """

    below: int = 1
    above: int = 1
    backward_above: int = 0
    backward_below: int = 0

    def __str__(self) -> str:
        parts = (
            _passes("forward", "up to", self.below, self.above),
            _passes("backward", "below", self.backward_below, self.backward_above),
        )
        return ", ".join(part for part in parts if part) or "no pass"


def _passes(what: str, there: str, below: int, above: int) -> str:
    """In words; empty if there are none."""
    if below == above:
        return f"{below} {what}" if below else ""
    if not above:
        return f"{below} {what} {there} the layer"
    if not below:
        return f"{above} {what} above the layer"
    return f"{below} {what} {there} the layer and {above} above"


@dataclass(frozen=True)
class MethodCard:
    """What is known of a method before it runs.

    Attributes:
        name: the name on the command line, `grad_cam`.
        title: how people write it, `Grad-CAM`.
        family: the folder that it lives in.
        summary: one sentence: what the map shows.
        needs: what the model must offer.
        signed: whether negative values mean evidence against the target.
        class_specific: whether the map depends on the target.
        stochastic: whether it draws random numbers (always from its own seed).
        citation: paper and equation.
        cost: passes as a function of the configured method.
        target_kind: the only kind of target that makes sense, if there is one (`"concept"`).
        hides: whether 0 means that nothing is shown there; its pictures then use the full range for the rest.
        autocast: empty, or the reason why the method must not run under autocast.
    """

    name: str
    title: str
    family: str
    summary: str
    needs: frozenset[Need]
    signed: bool
    class_specific: bool
    citation: str
    cost: Callable[[Any], Cost]
    stochastic: bool = False
    target_kind: str | None = None
    hides: bool = False
    autocast: str = ""


class Ask(StrEnum):
    """What a metric needs to know beside the map."""

    MASK = "mask"
    OBJECTS = "objects"
    BOXES = "boxes"
    MODEL = "model"
    LABEL = "label"
    RIVAL = "rival"
    METHOD = "method"


ASK_TEXT = {
    Ask.MASK: "the mask of the object",
    Ask.OBJECTS: "a mask for each object of the image",
    Ask.BOXES: "the boxes of the objects",
    Ask.MODEL: "the model, its input and the target",
    Ask.LABEL: "the class that the image truly shows",
    Ask.RIVAL: "a map for another class that is present in the image",
    Ask.METHOD: "the method that made the map",
}


@dataclass(frozen=True)
class MetricCard:
    """What is known of a metric before it runs.

    Attributes:
        name: the name in plans and on the command line, `pointing_game`.
        title: how people write it, `Pointing Game`.
        property: the folder that it lives in: localisation, faithfulness, complexity …
        summary: one sentence: what a good value means.
        needs: what must be known beside the map.
        bounds: the least and the greatest possible value; None where there is none.
        higher_is_better: None where neither is better.
        citation: paper and equation.
        passes: forward passes of the model per map, as a function of the configured metric.
        parts: names of further values that come with the main one, each with its direction
            (`{"mif": False}`): a row `fidelity.mif` in results.
        whole: names of values that only a whole set of maps has, each with its direction; `Metric.of_all` makes them.
        monotone_invariant: whether any increasing change of the map's values leaves the score as it is.
        scale_invariant: whether multiplying the map by a positive number does.
        stochastic: whether it draws random numbers (always from its own seed).
    """

    name: str
    title: str
    property: str
    summary: str
    needs: frozenset[Ask]
    bounds: tuple[float | None, float | None]
    higher_is_better: bool | None
    citation: str
    passes: Callable[[Any], int] = lambda metric: 0
    parts: dict[str, bool | None] = dataclasses.field(default_factory=dict)
    whole: dict[str, bool | None] = dataclasses.field(default_factory=dict)
    monotone_invariant: bool = False
    scale_invariant: bool = True
    stochastic: bool = False


@dataclass(frozen=True)
class DatasetCard:
    """What is known of a data set before it is read.

    Attributes:
        name: the name in plans, `voc`.
        title: how people write it, `PASCAL VOC`.
        summary: one sentence: what is in it.
        splits: the splits that can be asked for.
        layout: the files that the folder must hold, as relative patterns; empty where nothing is on disk.
        has: which of masks (`Ask.OBJECTS`), boxes (`Ask.BOXES`) and classes (`Ask.LABEL`) the items bring.
        source: where a person gets it, in words.
        citation: the paper.
    """

    name: str
    title: str
    summary: str
    splits: tuple[str, ...]
    layout: tuple[str, ...]
    has: frozenset[Ask]
    source: str
    citation: str


T = TypeVar("T")


class Registry(Generic[T]):
    """Names to (card, class), in the order of registration."""

    def __init__(self, kind: str, hint: str = "") -> None:
        self.kind = kind
        self.hint = hint
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> None:
        """Register `entry`; a name can be taken once only."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = entry

    def get(self, name: str) -> T:
        """The entry of that name (dashes and case do not matter).

        Raises:
            UnknownNameError: nothing of that name; the nearest are suggested.
        """
        key = name.lower().replace("-", "_").replace(" ", "_")
        if key not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries, self.hint)
        return self._entries[key]

    def names(self, pattern: str = "*") -> list[str]:
        """All names that match a shell pattern, sorted."""
        return sorted(fnmatch.filter(self._entries, pattern))

    def __iter__(self) -> Iterator[T]:
        return iter(self._entries.values())

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)


METHODS: Registry[type] = Registry("method", hint="`seewhy methods` lists them")
METRICS: Registry[type] = Registry("metric", hint="`seewhy metrics` lists them")
DATASETS: Registry[type] = Registry("data set", hint="`seewhy data list` lists them")


def method(*, needs: set[Need], register: bool = True, **card: Any) -> Callable[[type], type]:
    """Class decorator: make the class a dataclass of its options and enter it in the registry.

    `register=False` gives a method that works but is in no list: for trying out, and for the tests of the checks.
    """

    def enter(cls: type) -> type:
        made = MethodCard(**{"family": _folder(cls), "needs": frozenset(needs), **card})
        return _entered(dataclass(kw_only=True, eq=False)(cls), made, METHODS if register else None)

    return enter


def metric(*, needs: set[Ask], register: bool = True, **card: Any) -> Callable[[type], type]:
    """Class decorator: make the class a dataclass of its options and enter it among the metrics."""

    def enter(cls: type) -> type:
        made = MetricCard(**{"property": _folder(cls), "needs": frozenset(needs), **card})
        return _entered(dataclass(kw_only=True, eq=False)(cls), made, METRICS if register else None)

    return enter


def dataset(*, has: set[Ask], register: bool = True, **card: Any) -> Callable[[type], type]:
    """Class decorator: enter a data set."""

    def enter(cls: type) -> type:
        return _entered(cls, DatasetCard(**{"has": frozenset(has), **card}), DATASETS if register else None)

    return enter


def _entered(cls: type, card: Any, registry: Registry[type] | None) -> type:
    """The class with its card, in the registry if there is one for it."""
    cls.card = card
    if registry is not None:
        registry.add(card.name, cls)
    return cls


def _folder(cls: type) -> str:
    """The folder that a class is written in; none in a notebook or a script."""
    folders = cls.__module__.split(".")[:-1]
    return folders[-1] if folders else "custom"


def option(default: Any, help: str, *, at_least: float | None = None, choices: tuple | None = None) -> Any:
    """A dataclass field of a method: its default, its help text, and what values can work."""
    return dataclasses.field(default=default, metadata={"help": help, "at_least": at_least, "choices": choices})


def options_of(cls: type) -> dict[str, dataclasses.Field]:
    """The options of a method class, by name."""
    return {f.name: f for f in dataclasses.fields(cls) if "help" in f.metadata}


KINDS: dict[str, tuple[type, str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "bool": (bool, "True or False"),
    "str": (str, "a word"),
    "None": (NoneType, "None"),
}


def check_options(instance: Any) -> None:
    """Raise `OptionError` for a value that cannot work: of another kind than declared, too small, or no choice."""
    for name, field in options_of(type(instance)).items():
        value, lowest, choices = getattr(instance, name), field.metadata["at_least"], field.metadata["choices"]
        if choices is not None and value not in choices:
            raise OptionError(f"{name}={value!r} is not one of {', '.join(map(str, choices))}")
        kinds = [kind.strip() for kind in str(field.type).split("|")]
        if set(kinds) <= set(KINDS) and not any(_is(value, kind) for kind in kinds):
            raise OptionError(
                f"{name}={value!r} is not {' or '.join(KINDS[kind][1] for kind in kinds)}; "
                f"its default is {field.default!r}"
            )
        if lowest is not None and value is not None and not value >= lowest:
            raise OptionError(f"{name}={value!r} is too small; use {lowest} or more")


def _is(value: Any, kind: str) -> bool:
    """Whether the value is of that kind; truth values (NumPy's too) are no numbers."""
    truth = type(value).__name__ in ("bool", "bool_")
    return truth if kind == "bool" else isinstance(value, KINDS[kind][0]) and not truth

"""What a benchmark is to do: a small TOML file, checked word by word before anything runs."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from seewhy.bench.reference_maps import BASELINES
from seewhy.core.options import options_of
from seewhy.data import DATASETS
from seewhy.errors import OptionError, SeewhyError, UnknownNameError, suggestion
from seewhy.methods import METHODS
from seewhy.metrics import METRICS, Metric

TARGETS = ("label", "first", "prediction")
UPSAMPLINGS = ("bilinear", "nearest")
KEYS = ("seed", "models", "methods", "metrics", "baselines", "data", "protocol", "published")
DATA_KEYS = ("name", "split", "root", "n")
DIGEST = "toml:"  # manifests of earlier versions have digests without it, which nothing can be compared with


@dataclass(frozen=True)
class Choice:
    """A model, method or metric of a plan: its name, what results call it, and its options."""

    name: str
    label: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """How maps are made and compared.

    Attributes:
        size: (rows, cols) at which maps meet masks; None: the model's input size. Metrics that ask the model always
            work at its input size.
        upsampling: "bilinear" or "nearest".
        threshold: for every metric that makes a region of a map and has no `rule` or `level` of its own: a rule
            ("mean", "otsu"), or a share of the maximum.
        target: "label": a map for each class that the picture shows; "first": for the first of them;
            "prediction": for the model's own answer, compared with all objects together.
        batch_size: pictures at a time.
        device: as `load_model` takes it.
        keep_maps: whether maps and pictures are stored for galleries.
    """

    size: tuple[int, int] | None = None
    upsampling: str = "bilinear"
    threshold: float | str | None = None
    target: str = "label"
    batch_size: int = 16
    device: str | None = None
    keep_maps: bool = True


@dataclass(frozen=True)
class Plan:
    """A checked plan; picklable. `text` is what the user wrote, all else follows from it.

    Attributes:
        methods: those that the plan names, with their options.
        all_methods: whether every other method that can serve a model takes part as well.
        published: figures of a paper (method -> metric -> value), for the report only.
    """

    text: str = field(repr=False)
    seed: int
    models: tuple[Choice, ...]
    methods: tuple[Choice, ...]
    all_methods: bool
    metrics: tuple[Choice, ...]
    baselines: tuple[str, ...]
    data: dict[str, Any]
    protocol: Protocol
    published: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """A plan from a file.

        Raises:
            OptionError, UnknownNameError: the file cannot be read, or something in it cannot work.
        """
        try:
            text = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"the plan {str(path)!r} cannot be read ({error}); give a TOML file") from None
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str) -> Plan:
        """A plan from TOML text; errors as for `read`."""
        try:
            given = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise OptionError(f"the plan is no TOML ({error}); correct that line") from None
        _known("the plan", given, KEYS)
        for key in ("models", "metrics", "methods", "data"):
            if not given.get(key):
                raise OptionError(f"the plan has no {key}; add for example " + _EXAMPLES[key])
        seed, published = given.get("seed", 0), given.get("published", {})
        _kind("seed", seed, int)
        if seed < 0:
            raise OptionError(f"seed = {seed} is negative; use 0 or more")
        _kind("[published]", published, dict)
        methods, all_methods = _methods(given["methods"])
        return cls(
            text,
            seed,
            _choices("models", given["models"], None),
            methods,
            all_methods,
            _choices("metrics", given["metrics"], METRICS.__getitem__),
            _baselines(given),
            _data(given["data"]),
            _protocol(given.get("protocol", {})),
            published,
        )

    @property
    def digest(self) -> str:
        """Of what the plan says, whatever its spaces and comments are; the same in every version of seewhy."""
        said = {key: value for key, value in tomllib.loads(self.text).items() if key != "published"}
        return DIGEST + hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def made_metrics(self) -> dict[str, Metric]:
        """The metrics by label, with the plan's seed, upsampling and threshold where they have such an option."""
        common = {"seed": self.seed, "upsampling": self.protocol.upsampling}
        made = {}
        for choice in self.metrics:
            cls = METRICS[choice.name]
            shared = {name: value for name, value in common.items() if name in options_of(cls)}
            own = choice.options.keys() & {"rule", "level"}
            threshold = {} if own else _threshold(cls, self.protocol.threshold)
            try:
                made[choice.label] = cls(**{**shared, **threshold, **choice.options})
            except (TypeError, ValueError) as error:
                if isinstance(error, SeewhyError):
                    raise OptionError(f"metric {choice.label}: {error}") from error
                raise OptionError(f"metric {choice.label}: {error}; correct its options in the plan") from error
        return made


def _check_threshold(value: float | str) -> None:
    """Also where no metric of the plan has a threshold."""
    try:
        for cls in METRICS.values():
            if words := _threshold(cls, value):
                cls(**words)
    except OptionError as error:
        raise OptionError(f"[protocol] threshold = {value!r}: {error}") from None


def _threshold(cls: type, value: float | str | None) -> dict[str, Any]:
    """The plan's threshold in a metric's own words."""
    if value is None or "rule" not in options_of(cls):
        return {}
    return {"rule": value} if isinstance(value, str) else {"rule": "max", "level": value}


_EXAMPLES = {
    "models": 'models = ["scenes_vit"]',
    "metrics": 'metrics = ["pointing_game"]',
    "methods": 'methods = "all"',
    "data": '[data] name = "scenes"',
}


def _known(where: str, given: Any, known: Iterable[str]) -> None:
    _kind(where, given, dict)
    known = list(known)
    for key in given:
        if key not in known:
            near = suggestion(key, known) or f"; choose from {', '.join(known) or 'nothing'}"
            raise OptionError(f"{where} has no {key!r}{near}")


def _kind(name: str, value: Any, *kinds: type) -> None:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise OptionError(f"{name} = {value!r} cannot be; it must be {' or '.join(_WORDS[k] for k in kinds)}")


_WORDS = {
    int: "a whole number",
    dict: "a table",
    list: "a list",
    str: "a word",
    bool: "true or false",
    float: "a number",
}


def _methods(given: Any) -> tuple[tuple[Choice, ...], bool]:
    """The methods that are named, and whether "all" is: `"all"`, or `["all", {name = "rise", n_masks = 500}]`."""
    given = [given] if isinstance(given, str) else given
    _kind("methods", given, list)
    named = [entry for entry in given if entry != "all"]
    methods, all_methods = _choices("methods", named, METHODS.__getitem__), len(named) < len(given)
    for choice in methods:
        if choice.label in BASELINES or (all_methods and choice.label != choice.name and choice.label in METHODS):
            owner = "baseline" if choice.label in BASELINES else "method"
            raise OptionError(f"{choice.label!r} is the name of another {owner}; give {choice.name} another label")
    return methods, all_methods


def _choices(kind: str, given: Any, find: Callable[[str], type] | None) -> tuple[Choice, ...]:
    given = [given] if isinstance(given, str) else given
    _kind(kind, given, list)
    made = [_choice(kind, entry, find) for entry in given]
    labels = _distinct(made)
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise OptionError(f"{twice!r} is among the {kind} twice; remove one, or give it other options or a label")
    return tuple(Choice(c.name, label, c.options) for c, label in zip(made, labels, strict=True))


def _choice(kind: str, entry: Any, find: Callable[[str], type] | None) -> Choice:
    entry = {"name": entry} if isinstance(entry, str) else entry
    _kind(f"an entry of {kind}", entry, dict, str)
    entry = dict(entry)
    label = entry.pop("label", "")
    name = entry.pop("name", entry.get("source", ""))
    _kind(f"name of an entry of {kind}", name, str)
    if not name:
        raise OptionError(f'an entry of {kind} has no name; write {{name = "…"}}')
    if find is None:  # a model: the name is what results call it, the source what is loaded
        return Choice(entry.pop("source", name), label or name, entry)
    cls = find(name)
    unknown = sorted(set(entry) - set(options_of(cls)))
    if unknown:
        known = list(options_of(cls))
        near = suggestion(unknown[0], known) or f"; its options: {', '.join(known) or 'none'}"
        raise OptionError(f"{cls.card.title} has no option {unknown[0]!r}{near}")
    return Choice(cls.card.name, label, entry)


def _distinct(made: list[Choice]) -> list[str]:
    """Labels; entries of one name without labels of their own are told apart by their options."""
    names = [c.label or c.name for c in made]
    return [
        f"{c.name} ({', '.join(f'{k}={v}' for k, v in c.options.items())})"
        if not c.label and names.count(c.name) > 1 and c.options
        else name
        for c, name in zip(made, names, strict=True)
    ]


def _baselines(given: Mapping[str, Any]) -> tuple[str, ...]:
    names = given.get("baselines", ["random"])
    _kind("baselines", names, list)
    for name in names:
        if name not in BASELINES:
            raise UnknownNameError("baseline", str(name), BASELINES)
    return tuple(dict.fromkeys(names))


def _data(given: Any) -> dict[str, Any]:
    """The checked `[data]`; the options of the data set are checked by `load_data`."""
    given = {"name": given} if isinstance(given, str) else given
    _kind("[data]", given, dict, str)
    if "name" not in given:
        raise OptionError('[data] has no name; add name = "scenes"')
    _kind("[data] name", given["name"], str)
    DATASETS[given["name"]]
    n = given.get("n")
    if n is not None:
        _kind("[data] n", n, int)
        if n < 1:
            raise OptionError(f"[data] n = {n} leaves nothing to look at; use 1 or more, or leave it out for all")
    return given


def _protocol(given: Any) -> Protocol:
    _known("[protocol]", given, [f.name for f in fields(Protocol)])
    given = dict(given)
    if (size := given.get("size")) is not None:
        sides = [size, size] if isinstance(size, int) else size
        if not isinstance(sides, list) or len(sides) != 2 or not all(type(s) is int and s > 0 for s in sides):
            raise OptionError(f"[protocol] size = {size!r} cannot be; give pixels, or [rows, cols]")
        given["size"] = tuple(sides)
    made = Protocol(**given)
    for name, choices in (("upsampling", UPSAMPLINGS), ("target", TARGETS)):
        if getattr(made, name) not in choices:
            raise OptionError(
                f"[protocol] {name} = {getattr(made, name)!r}{suggestion(str(getattr(made, name)), ())}"
                f" is not one of {', '.join(choices)}"
            )
    if made.threshold is not None:
        _kind("[protocol] threshold", made.threshold, float, int, str)
        _check_threshold(made.threshold)
    _kind("[protocol] batch_size", made.batch_size, int)
    _kind("[protocol] keep_maps", made.keep_maps, bool)
    if made.batch_size < 1:
        raise OptionError(f"[protocol] batch_size = {made.batch_size} is too small; use 1 or more")
    return made

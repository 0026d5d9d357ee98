"""The format of a plan's TOML file: validated by pydantic, its errors put in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from seewhy.bench.geometry import check_geometry
from seewhy.bench.target_words import LABEL_TARGETS, TARGET_SCHEMA, as_target_word
from seewhy.errors import OptionError, suggestion
from seewhy.targets.parse import rank_of

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

EXAMPLES = {
    "models": 'models = ["scenes_vit"]',
    "metrics": 'metrics = ["pointing_game"]',
    "methods": 'methods = "all"',
    "data": '[data] name = "scenes"',
    "name": 'name = "…"',
}

EXPECTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a string or a table",
}
"""What must stand in a plan, by pydantic's type of error."""


def _as_list(value: Any) -> Any:
    """`"x"` stands for `["x"]`."""
    return [value] if isinstance(value, str) else value


def _as_table(value: Any) -> Any:
    """`"x"` stands for `{name = "x"}`."""
    return {"name": value} if isinstance(value, str) else value


def _as_model_table(value: Any) -> Any:
    """Name a model of which only the source is given after it."""
    table = _as_table(value)
    return {"name": table["source"], **table} if isinstance(table, dict) and "source" in table else table


def _as_size(value: Any) -> Any:
    """One number stands for a square."""
    sides = [value, value] if isinstance(value, int) else value
    valid = isinstance(sides, list | tuple) and len(sides) == 2 and all(type(n) is int and n > 0 for n in sides)
    if value is not None and not valid:
        raise ValueError("must be a number of pixels or [rows, cols], each at least 1")
    return value if value is None else tuple(sides)


def _as_threshold(value: Any) -> Any:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float | str)):
        raise ValueError("must be a rule (mean, otsu) or a share of the maximum")
    return value


SIZE_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2},
    ]
}


class _Table(BaseModel):
    """A table of the plan; its keys are known and its values are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Protocol(_Table):
    """Protocol of a run: how maps are computed and compared."""

    size: Annotated[tuple[int, int] | None, BeforeValidator(_as_size), WithJsonSchema(SIZE_SCHEMA)] = Field(
        default=None,
        description="Rows and columns at which maps are compared with masks; by default the model's input size. "
        "Metrics that run the model always work at its input size.",
    )
    upsampling: Literal["bilinear", "nearest"] = Field(default="bilinear", description="How maps are resized.")
    normalize: Literal["none", "minmax", "max"] = Field(
        default="none",
        description="What is done to each map before it is resized and scored: minmax: from 0 to 1; max: divided by "
        "its largest magnitude.",
    )
    preprocess: Annotated[dict[str, Any], BeforeValidator(check_geometry)] = Field(
        default_factory=dict,
        description="What changes in every model's preprocessing: size, resize, crop, interpolation; colors and all "
        "else stay the model's own.",
    )
    threshold: Annotated[float | str | None, BeforeValidator(_as_threshold)] = Field(
        default=None,
        description="For every metric that makes a region of a map and has no rule or level of its own: a rule "
        "(mean, otsu), or a share of the maximum.",
    )
    target: Annotated[str, BeforeValidator(as_target_word), WithJsonSchema(TARGET_SCHEMA)] = Field(
        default="truth",
        description="What is explained. truth (or label): a map for each class that the image shows, compared with the "
        "objects of that class; first: for the first of them; top-1 (or prediction): for the class that the model "
        "answers, top-2 for the one that it ranks second …, compared with all objects together; a class by name or "
        "number: for that class in every image, compared with its objects.",
    )
    batch_size: int = Field(default=16, ge=1, description="Images at a time.")
    device: str | None = Field(default=None, description="Device of the models, such as cpu or cuda:0.")
    keep_maps: bool = Field(default=True, description="Whether maps and images are stored for galleries.")

    @property
    def by_label(self) -> bool:
        """Whether the image's own annotation tells what is explained."""
        return self.target in LABEL_TARGETS

    @property
    def rank(self) -> int | None:
        """The rank of the explained class among the model's answers, if that tells it."""
        return rank_of(self.target)

    @property
    def class_name(self) -> str | None:
        """The name or number of the one class that is explained in every image, if there is one."""
        return None if self.by_label or self.rank else self.target


class _OpenTable(BaseModel):
    """A table with a name and options that somebody else validates."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    @property
    def options(self) -> dict[str, Any]:
        """The keys that are not part of the plan's format."""
        return dict(self.model_extra or {})


class DataTable(_OpenTable):
    """The dataset and how much of it is used; further keys are options of the dataset."""

    name: str = Field(description="Name of the dataset.")
    split: str | None = Field(default=None, description="Part of the dataset; by default its first.")
    root: str | None = Field(default=None, description="Folder of the dataset.")
    n: int | None = Field(default=None, ge=1, description="Number of samples, drawn with the seed; by default all.")


class EntryTable(_OpenTable):
    """A model, method or metric; further keys are its options."""

    name: str = Field(min_length=1, description="Name.")
    label: str | None = Field(default=None, description="What results call it; by default its name.")
    source: str | None = Field(default=None, description="Models only: what is loaded; by default the name.")


Entry = Annotated[EntryTable, BeforeValidator(_as_table)]
ModelEntry = Annotated[EntryTable, BeforeValidator(_as_model_table)]


class PlanFile(_Table):
    """A benchmark: which methods are scored by which metrics, for which models, on which data."""

    seed: int = Field(default=0, ge=0, description="Seed of everything that is drawn.")
    models: Annotated[list[ModelEntry], BeforeValidator(_as_list)] = Field(min_length=1)
    methods: Annotated[list[Entry], BeforeValidator(_as_list)] = Field(min_length=1)
    metrics: Annotated[list[Entry], BeforeValidator(_as_list)] = Field(min_length=1)
    reference_maps: list[str] = Field(
        default=["random"],
        validation_alias=AliasChoices("reference_maps", "baselines"),
        description="Maps that do not use the model, for comparison.",
    )
    data: Annotated[DataTable, BeforeValidator(_as_table)]
    protocol: Protocol = Field(default_factory=Protocol)
    published: dict[str, Any] = Field(
        default_factory=dict, description="Figures of a paper (model, method, metric), for the report only."
    )


def validate(content: Mapping[str, Any], name: str) -> PlanFile:
    """Validate the content of a plan.

    Args:
        content: What the TOML file holds.
        name: Name of the plan, for messages.

    Raises:
        OptionError: When a key is unknown or missing, or a value cannot be used.
    """
    try:
        return PlanFile.model_validate(content)
    except ValidationError as error:
        raise OptionError(f"{name}: {_describe(error.errors(include_url=False)[0])}") from None


def _describe(error: ErrorDetails) -> str:
    """Put an error of pydantic in words: the key, what was expected, what was given."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    path = error["loc"]
    key = _format_path(path)
    if kind == "extra_forbidden":
        return _describe_unknown_key(path)
    if kind in ("missing", "too_short", "string_too_short"):
        last = str(path[-1])
        return f"{key} is {'missing' if kind == 'missing' else 'empty'}; add for example {EXAMPLES.get(last, last)}"
    if kind == "greater_than_equal":
        return f"{key} must be at least {context['ge']}, got {_format_value(value)}"
    if kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        near = suggestion(str(value), choices) if isinstance(value, str) else ""
        return f"{key} must be one of {', '.join(choices)}, got {_format_value(value)}{near if 'mean' in near else ''}"
    if kind == "value_error":
        return f"{key} {context['error']}, got {_format_value(value)}"
    expected = EXPECTED.get(kind, error["msg"].removeprefix("Input should be "))
    if path == ("protocol",):
        expected = "a table"
    return f"{key} must be {expected}, got {_format_value(value)}"


def _describe_unknown_key(path: Sequence[str | int]) -> str:
    if path == ("baselines",):
        return "baselines is the former name of reference_maps; keep one of the two"
    table: type[BaseModel] = Protocol if path[0] == "protocol" else PlanFile
    known = [*table.model_fields, *(["baselines"] if table is PlanFile else [])]
    near = suggestion(str(path[-1]), known) or f"; choose from {', '.join(known)}"
    return f"unknown key {_format_path(path)!r}{near}"


def _format_path(path: Sequence[str | int]) -> str:
    """Return `models[1].name` for ("models", 1, "name")."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).removeprefix(".")


def _format_value(value: Any) -> str:
    """Return a value about as TOML writes it."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"

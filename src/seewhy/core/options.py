"""Options of methods and metrics: declared as dataclass fields, validated by pydantic, described as JSON schema."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import types
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin

import numpy as np

from seewhy.errors import OptionError, suggestion

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


def option(
    default: T,
    help: str,
    *,
    at_least: float | None = None,
    choices: tuple[Any, ...] | None = None,
    repeats: bool = False,
) -> T:
    """Declare an option: a dataclass field with a help text and the values that it accepts.

    Args:
        default: Value that is used when nothing is given.
        help: One line for the command line and the docs.
        at_least: Smallest number that is accepted.
        choices: All values that are accepted.
        repeats: Whether the option is a number of repetitions (samples, steps, masks): the cost grows with it, and
            a smaller value gives a coarser result of the same kind.

    Returns:
        The dataclass field, typed as its value so that type checkers see the option's own type.
    """
    metadata = {"help": help, "at_least": at_least, "choices": choices, "repeats": repeats}
    return dataclasses.field(default=default, metadata=metadata)


def options_of(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """Return the options that a class declares, by name."""
    return {f.name: f for f in dataclasses.fields(cls) if "help" in f.metadata}


def repeated_options(cls: type) -> list[str]:
    """Return the names of the options that are numbers of repetitions."""
    return [name for name, field in options_of(cls).items() if field.metadata["repeats"]]


def check_option_names(
    owner: str, given: Iterable[str], accepted: Iterable[str], arguments: Iterable[str] = ()
) -> None:
    """Check that every name is one of an option.

    Args:
        owner: What has the options, for the message (`"Grad-CAM"`).
        given: The names that the caller wrote.
        accepted: The names that there are.
        arguments: What else the caller may have meant: the other arguments of the call that takes the options.

    Raises:
        OptionError: One of them is unknown; the message suggests the nearest.
    """
    accepted = list(accepted)
    unknown = sorted(set(given) - set(accepted))
    if unknown:
        near = suggestion(unknown[0], [*accepted, *arguments])
        advice = near if near.endswith("?") else f"; its options: {', '.join(accepted) or 'none'}"
        raise OptionError(f"{owner} has no option {unknown[0]!r}{advice}")


class Configurable:
    """Base of classes that are made from options: an unknown one is an `OptionError`, not Python's `TypeError`."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Check the names before `__init__` takes the values.

        Raises:
            OptionError: There is no such option.
        """
        if kwargs:
            parameters = inspect.signature(cls.__init__).parameters.values()
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                others = {p.name for p in parameters} - {"self"} - set(options_of(cls))
                check_option_names(_title(cls), set(kwargs) - others, options_of(cls))
        return super().__new__(cls)


def _title(cls: type) -> str:
    card = getattr(cls, "card", None)
    return card.title if card is not None else cls.__name__


def check_options(instance: Any) -> None:
    """Validate every option of an instance.

    Raises:
        OptionError: A value has another type than declared, is too small, or is not one of the choices.
    """
    cls = type(instance)
    for name, adapter in _adapters(cls).items():  # type: ignore[arg-type]  # mypy: a class is hashable
        _validate(name, getattr(instance, name), adapter, _hint(cls, options_of(cls)[name]))


def options_schema(cls: type) -> dict[str, Any]:
    """Describe the options of a class as a JSON schema, for editors and for plans."""
    properties = {}
    for name, field in options_of(cls).items():
        schema = _schema_of(_hint(cls, field), field.metadata)
        properties[name] = {**schema, "default": _json_default(field.default), "description": field.metadata["help"]}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _validate(name: str, value: Any, adapter: TypeAdapter[Any], hint: Any) -> None:
    from pydantic import ValidationError

    plain: Any = list(value) if isinstance(value, range) else value
    if isinstance(value, np.generic):
        plain = value.item()
    try:
        adapter.validate_python(plain, strict=True)
    except ValidationError as error:
        optional = types.NoneType in get_args(hint)
        raise OptionError(f"{name}={value!r} {_advice(error, optional)}") from None


def _advice(error: ValidationError, optional: bool) -> str:
    """Put pydantic's errors in words: what the value must be instead."""
    errors = error.errors(include_url=False, include_input=False)
    for each in errors:
        context = each.get("ctx", {})
        if each["type"] == "greater_than_equal":
            return f"is too small; use {context['ge']:g} or more"
        if each["type"] == "literal_error":
            return f"is not one of {context['expected'].replace(' or ', ', ')}".replace("'", "")
    wanted = [each["msg"].removeprefix("Input should be ").removeprefix("a valid ") for each in errors]
    words = [word if word.startswith(("a ", "an ", "None")) else f"{_article(word)} {word}" for word in wanted]
    words += ["None"] if optional else []
    return f"must be {' or '.join(dict.fromkeys(words))}"


def _article(word: str) -> str:
    return "an" if word[:1] in "aeiou" else "a"


@functools.cache
def _adapters(cls: type[Any]) -> dict[str, TypeAdapter[Any]]:
    from pydantic import ConfigDict, TypeAdapter

    config = ConfigDict(arbitrary_types_allowed=True)
    adapters = {}
    for name, field in options_of(cls).items():
        hint = _constrained(_hint(cls, field), field.metadata)
        adapters[name] = TypeAdapter(hint, config=config)
    return adapters


def _hint(cls: type, field: dataclasses.Field[Any]) -> Any:
    """Evaluate the annotation of a field in the module of the class that declares it."""
    if not isinstance(field.type, str):
        return field.type
    for base in cls.__mro__:
        if field.name in inspect.get_annotations(base):
            return eval(field.type, {**vars(sys.modules[base.__module__])})
    raise TypeError(f"{cls.__name__} declares no option {field.name!r}")


def _constrained(hint: Any, metadata: Any) -> Any:
    """Put the bounds of an option on the numbers of its type, and its choices in place of it."""
    from pydantic import Field

    if metadata["choices"] is not None:
        return Literal[metadata["choices"]]
    if metadata["at_least"] is None:
        return hint
    if get_origin(hint) in (Union, types.UnionType):
        return Union[tuple(_constrained(each, metadata) for each in get_args(hint))]  # noqa: UP007 (built at run time)
    return Annotated[hint, Field(ge=metadata["at_least"])] if hint in (int, float) else hint


def _schema_of(hint: Any, metadata: Any) -> dict[str, Any]:
    """Describe the part of a type that JSON can express."""
    from pydantic import TypeAdapter

    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    plain = tuple(p for p in parts if p in (str, int, float, bool, types.NoneType) or get_origin(p) in (list, tuple))
    if metadata["choices"] is None and not plain:
        return {}
    return TypeAdapter(_constrained(Union[plain or (str,)], metadata)).json_schema()  # noqa: UP007


def _json_default(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

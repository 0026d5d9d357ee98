"""Options are checked by what they are declared to be, before anything runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import toys

from seewhy.core.options import check_options, option, options_of
from seewhy.errors import OptionError
from seewhy.methods import METHODS, GradCAM
from seewhy.metrics import METRICS

EVERY = [*METHODS.values(), *METRICS.values()]


@dataclass
class Asked:
    """One option of each kind."""

    n: int = option(default=3, help="a count", at_least=1)
    part: float = option(default=0.5, help="a share")
    yes: bool = option(default=False, help="a switch")
    word: str = option(default="a", help="a word")
    maybe: int | None = option(default=None, help="a count", at_least=2)
    free: Any = option(default=None, help="anything")


def made(cls: type, **values):
    """An instance that was never checked."""
    instance = object.__new__(cls)
    for name, field in options_of(cls).items():
        object.__setattr__(instance, name, values.get(name, field.default))
    return instance


@pytest.mark.parametrize("cls", EVERY, ids=lambda cls: cls.__name__)
def test_defaults_are_what_options_are_declared_to_be(cls) -> None:
    check_options(made(cls))


@pytest.mark.parametrize("cls", EVERY, ids=lambda cls: cls.__name__)
def test_a_word_in_place_of_a_number_is_refused(cls) -> None:
    for name, field in options_of(cls).items():
        if field.type in ("int", "float", "bool", "int | None", "float | None"):
            with pytest.raises(OptionError, match=rf"{name}='many' must be an? (integer|number|boolean)"):
                check_options(made(cls, **{name: "many"}))


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        ({"n": 2.5}, "n=2.5 must be an integer"),
        ({"n": None}, "n=None must be an integer"),
        ({"n": True}, "n=True must be an integer"),
        ({"part": [1]}, r"part=\[1\] must be a number"),
        ({"yes": 1}, "yes=1 must be a boolean"),
        ({"word": 3}, "word=3 must be a string"),
        ({"maybe": "x"}, "maybe='x' must be an integer or None"),
        ({"n": 0}, "n=0 is too small; use 1 or more"),
        ({"maybe": 1}, "maybe=1 is too small; use 2 or more"),
    ],
)
def test_the_wrong_kind_of_value_is_named(values, advice) -> None:
    with pytest.raises(OptionError, match=advice):
        check_options(made(Asked, **values))


def test_numbers_of_numpy_and_whole_floats_pass() -> None:
    for values in (
        {"n": np.int64(3)},
        {"part": np.float32(2)},
        {"part": 1},
        {"yes": np.True_},
        {"maybe": 4},
        {"free": "anything"},
    ):
        check_options(made(Asked, **values))


@pytest.mark.parametrize("cls", EVERY, ids=lambda cls: cls.__name__)
def test_an_option_that_does_not_exist_is_named(cls) -> None:
    model = () if cls.card.name in METRICS else (object(),)
    message = f"{cls.card.title} has no option 'unknown'; its options: {', '.join(options_of(cls)) or 'none'}"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        cls(*model, unknown=1)
    for name in options_of(cls):
        with pytest.raises(OptionError, match=rf"has no option '{name}x'; did you mean '{name}'"):
            cls(*model, **{f"{name}x": 1})


def test_what_only_python_takes_is_no_option() -> None:
    with pytest.raises(TypeError, match=r"missing .* argument: 'model'"):
        GradCAM(relu=True)
    assert isinstance(GradCAM(model=toys.toy_cnn(), relu=True), GradCAM)

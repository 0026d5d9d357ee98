"""Machinery of checks: named functions, lists that a decorator fills, and one kind of failure."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import SkipTest

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seewhy.core.options import options_of, repeated_options
from seewhy.models.adapter import VisionModel

TOLERANCE = 1e-3
"""How far two ways to the same numbers may lie apart, relative to the largest of them."""


class ContractError(AssertionError):
    """A method, metric, model, dataset or model source breaks a promise.

    Attributes:
        check: The name of the check.
        subject: What was checked.
    """

    def __init__(self, subject: str, check: str, message: str) -> None:
        super().__init__(f"{subject} fails {check}: {message}")
        self.check, self.subject = check, subject


class Broken(AssertionError):  # noqa: N818 (the error that comes out is ContractError)
    """Raised inside a check; leaves it as a `ContractError`."""


def ensure(condition: Any, message: str) -> None:
    """Fail the running check with `message` unless the condition holds (unlike `assert`, also under `python -O`)."""
    if not condition:
        raise Broken(message)


@contextmanager
def named(subject: str, check: str) -> Iterator[None]:
    """Turn whatever goes wrong in the block into this check's failure; the caller's random state is not touched."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    except SkipTest:
        raise
    except Broken as error:
        raise ContractError(subject, check, str(error)) from None
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ContractError(subject, check, f"raised {type(error).__name__}: {reason}") from error
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def seed_everything(seed: int) -> None:
    """Set every global random state."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def expect(kind: type[Exception] | tuple[type[Exception], ...], what: str) -> Iterator[None]:
    """Fail unless the block raises `kind`."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    words = " or ".join(k.__name__ for k in kinds)
    try:
        yield
    except kinds:
        return
    except Broken:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise Broken(f"{what} raises {type(error).__name__} ({reason}) instead of {words}") from error
    raise Broken(f"{what} raises no {words}")


Check = Callable[..., None]


def entered(checks: list[tuple[str, Check]], fn: Callable[..., None], check: Check) -> Check:
    """Give the public `check` the name and words of `fn`, and put it on the list."""
    check.__name__ = check.__qualname__ = fn.__name__
    check.__doc__, check.__module__ = fn.__doc__, fn.__module__
    check.__dict__["inner"] = fn
    checks.append((fn.__name__, check))
    return check


def run_all(checks: list[tuple[str, Check]], subject: str, *args: Any) -> dict[str, str]:
    """Run the inner function of each check, on arguments made once.

    Args:
        checks: Names and checks.
        subject: What is checked, for messages.
        *args: The arguments of the inner functions.

    Returns:
        The checks that did not apply, with the reason.

    Raises:
        ContractError: The first failure, with the others as its notes.
    """
    skipped: dict[str, str] = {}
    failed: list[ContractError] = []
    for name, check in checks:
        try:
            with named(subject, name):
                check.__dict__["inner"](*args)
        except SkipTest as reason:
            skipped[name] = str(reason)
        except ContractError as error:
            failed.append(error)
    for other in failed[1:]:
        failed[0].add_note(str(other))
    if failed:
        raise failed[0]
    return skipped


def gap(a: Tensor, b: Tensor) -> float:
    """Return the largest difference in any image, relative to that image's largest number."""
    if a.shape != b.shape:
        return float("inf")
    a, b = (t.detach().double().flatten(1) for t in (a, b))
    scale = torch.maximum(a.abs(), b.abs()).amax(1)
    # rounding in an image whose map is all but zero is no difference
    scale = scale.clamp(min=1e-6 * float(scale.max()) + 1e-30)
    return float(((a - b).abs().amax(1) / scale).max())


NOT_ONE = "is not one sentence that begins with a capital and ends with a full stop"


def one_sentence(text: str) -> bool:
    """Tell whether a text is one sentence, as lists show it; a number may begin it."""
    return (text[:1].isupper() or text[:1].isdigit()) and text.endswith(".") and ". " not in text


def ensure_same(a: Tensor, b: Tensor, message: str) -> None:
    """Fail unless both agree within `TOLERANCE`."""
    ensure(gap(a, b) <= TOLERANCE, f"{message} (relative difference {gap(a, b):.2g})")


FEW = 3
"""The number of repetitions in a check: more than one, and cheap."""


def few_repetitions(cls: type, few: int = FEW) -> dict[str, int]:
    """Return the options of a method or metric that are numbers of repetitions, each set to a few."""
    least = {name: options_of(cls)[name].metadata["at_least"] for name in repeated_options(cls)}
    return {name: few if at_least is None else max(few, at_least) for name, at_least in least.items()}


def images(n: int, seed: int = 0) -> list[Image.Image]:
    """Return images of colored blocks, 192 pixels wide and 128 high."""
    blocks = np.random.default_rng(seed).integers(0, 256, (n, 16, 24, 3), dtype=np.uint8)
    return [Image.fromarray(b.repeat(8, 0).repeat(8, 1)) for b in blocks]


def batch_for(model: VisionModel, x: Tensor | None) -> Tensor:
    """Return the caller's batch, or three preprocessed images of colored blocks."""
    x = model.preprocess_images(images(3)) if x is None else x
    ensure(len(x) > 1, "the checks need a batch of at least two images")
    return x

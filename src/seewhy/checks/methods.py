"""All checks of methods, and one call that runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seewhy.checks import method_cards, method_safety, method_values  # noqa: F401 (their decorators fill METHOD_CHECKS)
from seewhy.checks.core import run_all
from seewhy.checks.method_case import METHOD_CHECKS, make_method_case
from seewhy.methods.base import Method
from seewhy.models.adapter import VisionModel
from seewhy.targets import TargetLike


def check_method(
    cls: type[Method],
    model: VisionModel,
    x: Tensor | None = None,
    target: TargetLike = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Run every check of a method on one model; faster than one by one, because they share the plain map.

    Args:
        cls: The method's class, registered or not.
        model: A model that can serve it, on any device; it is only copied and run. Small is enough. One whose input
            is not square finds more mistakes.
        x: A preprocessed batch of at least two different images, of the size that `model.preprocess` makes (a card
            may count passes by it); None: three images of colored blocks.
        target: One target for each image, all different; None: classes 0, 1, 2 …, or random vectors.
        options: Options without which the method cannot be made. Of a trained one `weights`, and `verify=False`,
            because some checks change the model's weights.

    Returns:
        The checks that did not apply, with the reason.

    Raises:
        ContractError: A check fails; the first, with the others as its notes.
        RequirementError: The model cannot serve the method.
    """
    cls(model=model, **(options or {}))
    return run_all(METHOD_CHECKS, cls.card.name, make_method_case(cls, model, x, target, options))

"""The rules of AttnLRP down to the pixels, whatever happens to an image before the first layer with weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from seewhy.methods.lrp.sums import PASS, PRODUCTS, SUMS, passed_on, sum_rule
from seewhy.methods.lrp.token_rules import TokenRules
from seewhy.models.instrument.modes import Handler, Operation, is_tracked, pass_through, with_backward


class PixelTokenRules(TokenRules):
    """`TokenRules` from the output to the first layer with weights; relevance itself goes down from there.

    So a normalization that is part of the model takes no share, as in `LayerRules`.
    """

    def __init__(self, **rules: Any) -> None:
        super().__init__(**rules)
        self._above = self.handlers
        below: dict[str, Handler] = dict.fromkeys(self.handlers, self._first_layer)
        below |= dict.fromkeys(PASS, pass_through)
        below |= dict.fromkeys(SUMS, lambda run, args, kwargs: sum_rule(run, args, kwargs, self.epsilon))
        below |= dict.fromkeys(PRODUCTS, _scaled)
        self.handlers = below

    def _first_layer(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the first operation that is not done to the image as such, by its own rule."""
        self.handlers = self._above
        args = tree_map(_times_value, args)
        return self._above[operation.__name__.strip("_")](operation, args, kwargs)


def _scaled(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return passed_on(operation, args, kwargs, next(argument for argument in args if is_tracked(argument)))


def _times_value(value: Any) -> Any:
    """Return the value, with relevance per value above it and relevance below it."""
    if not is_tracked(value):
        return value
    return with_backward(value.clone, lambda saved, upper: (upper * saved[0],), value)

"""Checks that a method's card and options are true: needs, costs, values, words."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator

from seewhy.checks.cards import complaints, options_are_declared
from seewhy.checks.core import ensure, expect
from seewhy.checks.method_case import Probe, few_passes, method_check
from seewhy.checks.state import Passes, clone
from seewhy.core.cards import CAPABILITY_TEXT, Capability, Cost
from seewhy.core.options import options_of
from seewhy.errors import OptionError, RequirementError
from seewhy.methods.base import Method
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import untouched


@method_check
def needs_checked_first(probe: Probe) -> None:
    """A model without one of the needs gets a `RequirementError` that names it, before any forward."""
    for need in sorted(probe.card.needs):
        model = _without(clone(probe.model), need)
        passes = Passes(model)
        with expect(RequirementError, f"a model without {need}"):
            try:
                probe.cls(model=model)
            except RequirementError as error:
                ensure(
                    CAPABILITY_TEXT[need] in str(error),
                    f"the error does not say that {CAPABILITY_TEXT[need]} is missing",
                )
                raise
            finally:
                ensure(not passes.order, f"a forward runs before {need} is found missing")
    model = clone(probe.model)
    passes = Passes(model)
    probe.method(model)
    ensure(not passes.order, "making the method runs the model already")


def _without(model: VisionModel, need: Capability) -> VisionModel:
    """The same model, but it does not offer `need`."""
    lacking = copy.copy(model)
    offers = model.capabilities - {need}
    lacking.__class__ = type("Lacking", (type(model),), {"capabilities": property(lambda self: offers)})
    return lacking


@method_check
def cost_as_declared(probe: Probe) -> None:
    """Forwards and backwards below and above the layer are those of the card, for more than one number of passes.

    Counted in images through every leaf of the model. Below a cut no graph is built and no gradient computed;
    the gradient of a parameter never is.
    """
    for few in (3, 4):
        method = probe.method(clone(probe.model), **few_passes(probe.cls, probe.model, few))
        layer = method.cut_layer.name if method.cut_layer else None
        passes = Passes(method.model, layer)
        with untouched(method.model.module):
            method.model.run(probe.x)
        plain, order = dict(passes.forward), passes.order
        passes.reset()
        method(probe.x, probe.target)
        below, above = _sides(order, layer, method.cost)
        _compare(passes, plain, below, "below", method.cost.below, method.cost.backward_below)
        _compare(passes, plain, above, "above", method.cost.above, method.cost.backward_above)
        ensure(not passes.parameter_gradients, "gradients of parameters are computed")


def _sides(order: list[str], layer: str | None, cost: Cost) -> tuple[list[str], list[str]]:
    """The leaves below and above the cut; first and last stand for them where the cut is not known."""
    if layer is not None:
        at = order.index(layer) + 1
        return order[:at], order[at:]
    alike = (cost.below, cost.backward_below) == (cost.above, cost.backward_above)
    return (order, order) if alike else (order[:1], order[-1:])


def _compare(passes: Passes, plain: dict[str, int], names: list[str], side: str, forward: int, backward: int) -> None:
    names = [n for n in names if n in plain]
    for name in names:
        rows = passes.forward[name] / plain[name]
        ensure(rows == forward, f"{rows:g} forwards through {name}, {side} the layer; the card says {forward}")
    rows = max((passes.backward[n] / plain[n] for n in names), default=backward)
    ensure(rows == backward, f"{rows:g} backwards {side} the layer; the card says {backward}")
    graph = [n for n in names if n in passes.graph] if not backward and forward else []
    ensure(not graph, f"{(graph or [''])[0]}, {side} the layer, runs with gradients that nobody needs")


@method_check
def options_checked(probe: Probe) -> None:
    """A value below an option's least, or not among its choices, is an `OptionError`; a default never is."""
    probe.cls(model=probe.model)
    for name, field in options_of(probe.cls).items():
        if field.metadata["at_least"] is not None:
            with expect(OptionError, f"{name}={field.metadata['at_least'] - 1}"):
                probe.method(**{name: field.metadata["at_least"] - 1})
        if field.metadata["choices"] is not None:
            with expect(OptionError, f"{name}='no such choice'"):
                probe.method(**{name: "no such choice"})


@method_check
def options_declared(probe: Probe) -> None:
    """Every field has a help text, counts of passes a least value, and all values go into a manifest and back."""
    method = probe.method()
    ensure(json.loads(json.dumps(method.options)) == method.options, "the options do not survive JSON")
    options_are_declared(method, besides=("model",))


@method_check
def card_complete(probe: Probe) -> None:
    """A name, a title, a family, one sentence of summary, a citation, true kinds; and where the file lies agrees."""
    for complaint in _complaints(probe.cls, probe.method()):
        ensure(False, complaint)


def _complaints(cls: type[Method], method: Method) -> Iterator[str]:
    card, cost = cls.card, method.cost
    yield from complaints(cls, "family", "seewhy.methods")
    if not isinstance(cost, Cost) or min(cost.below, cost.above, cost.backward_above, cost.backward_below) < 0:
        yield "the cost is not a Cost with counts"
    if not card.needs <= set(Capability):
        yield "a need is not a Need"

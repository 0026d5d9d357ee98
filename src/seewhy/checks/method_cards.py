"""Checks that a method's card and options are true: needs, costs, values, words."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from seewhy.checks.cards import complaints, options_are_declared, wrong_values
from seewhy.checks.core import ensure, expect, few_repetitions
from seewhy.checks.method_case import MethodCase, method_check
from seewhy.checks.state import PassCounter, WeightGradients, clone
from seewhy.core.cards import CAPABILITY_TEXT, Capability, Cost
from seewhy.core.options import options_of
from seewhy.errors import OptionError, RequirementError
from seewhy.methods.base import Method
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import untouched


@method_check
def check_capabilities_first(case: MethodCase) -> None:
    """Check that a model that lacks one of the needs gets a `RequirementError` that names it, before any forward."""
    for need in sorted(case.card.needs):
        model = _without(clone(case.model), need)
        counter = PassCounter(model)
        with expect(RequirementError, f"a model without {need}"):
            try:
                case.cls(model=model, **case.given)
            except RequirementError as error:
                ensure(
                    CAPABILITY_TEXT[need] in str(error),
                    f"the error does not say that {CAPABILITY_TEXT[need]} is missing",
                )
                raise
            finally:
                ensure(not counter.order, f"a forward runs before {need} is found missing")
    model = clone(case.model)
    counter = PassCounter(model)
    case.method(model)
    ensure(not counter.order, "making the method runs the model already")


def _without(model: VisionModel, need: Capability) -> VisionModel:
    """Return the same model, but it does not offer `need`."""
    lacking = copy.copy(model)
    offers = model.capabilities - {need}
    lacking.__class__ = type("Lacking", (type(model),), {"capabilities": property(lambda self: offers)})
    return lacking


@method_check
def check_cost(case: MethodCase) -> None:
    """Check that every part of the model runs, forward and backward, as often as the cost says.

    With two numbers of repetitions, counted in images through every leaf of the model. A part without backward passes
    builds no graph; the gradient of a parameter is never computed.
    """
    for few in (3, 4):
        method = case.method(clone(case.model), **few_repetitions(case.cls, few))
        counter = PassCounter(method.model, method.cut_layer.name if method.cut_layer else None)
        with untouched(method.model.module):
            method.model.run(case.x)
        once, order = dict(counter.forward), counter.order
        counter.reset()
        with WeightGradients() as weights:
            method(case.x, case.target)
        for part, leaves in _leaves_by_part(method, order).items():
            _compare(counter, once, leaves, part, method)
        computed = counter.parameter_gradients or weights.computed
        ensure(not computed, "gradients of parameters are computed")


def _leaves_by_part(method: Method, order: list[str]) -> dict[str, list[str]]:
    """Return the leaves of each part of the method's cost, from the order in which all run in one forward."""
    parts = tuple(method.cost.parts)
    if parts == ("model",):
        return {"model": order}
    if parts in (("below", "above"), ("below", "row")):
        if method.cut_layer is None:  # the first and the last leaf stand for the parts where the cut is not known
            return {"below": order[:1], parts[1]: order[-1:]}
        end = order.index(method.cut_layer.name) + 1
        return {"below": order[:end], parts[1]: order[end:]}
    ensure(
        parts == ("embedding", "blocks", "head"),
        "the cost is of no constructor of Cost",
    )
    blocks = tuple(f"{block.name}." for block in method.model.structure.blocks)
    inside = [i for i, name in enumerate(order) if name.startswith(blocks)]
    ensure(inside, "the cost is that of a transformer, but no block of the model runs")
    return {
        "embedding": order[: inside[0]],
        "blocks": [order[i] for i in inside],
        "head": order[inside[-1] + 1 :],
    }


def _compare(counter: PassCounter, once: dict[str, int], leaves: list[str], part: str, method: Method) -> None:
    """Compare what was counted in one part with what the cost says of it."""
    leaves, passes = [name for name in leaves if name in once], method.cost.parts[part]
    place = f"{part} the layer" if part in ("below", "above") else f"in the {part}"
    blocks = method.model.structure.blocks
    # beside the class token's row, the projections of the last attention run on a basis, as one image
    projected = f"{blocks[-1].attention}." if part == "row" and blocks else "-"
    for name in leaves:
        forward = counter.forward[name] / once[name]
        more = forward - passes.forward
        ensure(
            more == 0 or (name.startswith(projected) and 0 < more <= 1),
            f"{forward:g} forward passes through {name}, {place}; the cost says {passes.forward}",
        )
    backward = max((counter.backward[name] / once[name] for name in leaves), default=passes.backward)
    ensure(backward == passes.backward, f"{backward:g} backward passes {place}; the cost says {passes.backward}")
    graph = [name for name in leaves if name in counter.graph] if not passes.backward and passes.forward else []
    ensure(not graph, f"{(graph or [''])[0]}, {place}, runs with gradients that nobody needs")


@method_check
def check_option_values(case: MethodCase) -> None:
    """Check that a value below an option's least or none of its choices is an `OptionError`; a default never is."""
    case.cls(model=case.model, **case.given)
    for name, field in options_of(case.cls).items():
        for value in wrong_values(field):
            options: dict[str, Any] = {name: value}
            with expect(OptionError, f"{name}={value!r}"):
                case.method(**options)


@method_check
def check_option_declarations(case: MethodCase) -> None:
    """Check that every field is an option with a help text, and that all values survive JSON."""
    method = case.method()
    ensure(json.loads(json.dumps(method.options)) == method.options, "the options do not survive JSON")
    options_are_declared(method, besides=("model",))


@method_check
def check_method_card(case: MethodCase) -> None:
    """Check name, title, family, summary (one sentence), citation, cost and needs, and where the file lies."""
    for complaint in _complaints(case.cls, case.method()):
        ensure(False, complaint)


def _complaints(cls: type[Method], method: Method) -> Iterator[str]:
    card, cost = cls.card, method.cost
    yield from complaints(cls, "family", "seewhy.methods")
    if not isinstance(cost, Cost) or min(min(p.forward, p.backward) for p in cost.parts.values()) < 0:
        yield "the cost is not a Cost with counts of 0 or more"
    if not card.needs <= set(Capability):
        yield "a need is not a Capability"

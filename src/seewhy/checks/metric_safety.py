"""Checks that a metric leaves everything as it came: what it was given, the model, random states, an exception."""

from __future__ import annotations

from itertools import product
from typing import Any

from torch import Tensor, nn

from seewhy.checks.core import ensure
from seewhy.checks.metric_case import MetricCase, metric_check
from seewhy.checks.state import FailureInjector, InjectedError, StateSnapshot, change, leaves, messy_copy, tensor_state
from seewhy.core.cards import Requirement


@metric_check
def check_inputs_untouched(case: MetricCase) -> None:
    """Check that maps, masks and all else that is given keep their values, versions and places."""
    known = case.given()
    tensors = {
        "the maps": case.maps,
        **{name: value for name, value in vars(known).items() if isinstance(value, Tensor)},
    }
    for name, values in (("objects", case.objects), ("boxes", case.boxes)):
        tensors |= {f"{name} {i}": value for i, value in enumerate(values)}
    before = {name: (tensor_state(t, name), t._version) for name, t in tensors.items()}
    case.metric.measure(case.maps, known)
    for name, t in tensors.items():
        state, version = before[name]
        what = change(state, tensor_state(t, name)) or (name if t._version != version else "")
        ensure(not what, f"{what} is not what it was")


@metric_check
def check_metric_leaves_state_untouched(case: MetricCase) -> None:
    """Check that after a run the model, random states, torch's switches and functions are as before."""
    model = messy_copy(case.model) if case.known.model else None
    changes: dict[str, Any] = {"model": model, "method": case.method_of(model)} if model else {}
    snapshot = StateSnapshot(model.module if model else nn.Identity())
    case.measure(**changes)
    snapshot.ensure_unchanged("after a run")


@metric_check
def check_exceptions_propagate(case: MetricCase) -> None:
    """Check that an exception inside the model's forward comes out, early or late, and leaves nothing behind."""
    case.skip_unless_needed(Requirement.MODEL)
    model = messy_copy(case.model)
    names = list(leaves(model.module))
    injector = FailureInjector({name: model.submodule(name) for name in (names[0], names[-1])})
    known = case.given(model=model, method=case.method_of(model))
    snapshot = StateSnapshot(model.module)
    for place, at_call in product((names[0], names[-1]), (1, 2)):
        injector.arm(place, at_call)
        known.cache.clear()
        try:
            case.metric.measure(case.maps, known)
            swallowed = injector.triggered
        except InjectedError:
            swallowed = False
        ensure(not swallowed, f"an exception in {place} is swallowed")
        snapshot.ensure_unchanged(f"after an exception in {place}")

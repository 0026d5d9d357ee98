"""Checks that a metric leaves everything as it came: what it was given, the model, random states, an exception."""

from __future__ import annotations

from itertools import product

from torch import Tensor, nn

from seewhy.checks.core import ensure
from seewhy.checks.metric_case import Trial, metric_check
from seewhy.checks.state import Boom, Fuse, Witness, change, leaves, lived_in, tensor_state
from seewhy.core.cards import Requirement


@metric_check
def inputs_untouched(trial: Trial) -> None:
    """Maps, masks and all else that is given keep their values, versions and places."""
    known = trial.given()
    tensors = {
        "the maps": trial.maps,
        **{name: value for name, value in vars(known).items() if isinstance(value, Tensor)},
    }
    for name in ("objects", "boxes"):
        tensors |= {f"{name} {i}": value for i, value in enumerate(getattr(known, name))}
    before = {name: (tensor_state(t, name), t._version) for name, t in tensors.items()}
    trial.metric.measure(trial.maps, known)
    for name, t in tensors.items():
        state, version = before[name]
        what = change(state, tensor_state(t, name)) or (name if t._version != version else "")
        ensure(not what, f"{what} is not what it was")


@metric_check
def nothing_else_changes(trial: Trial) -> None:
    """After a run the model, random states, torch's switches and functions are as before."""
    model = lived_in(trial.known.model) if trial.known.model else None
    changes = {"model": model, "method": type(trial.known.method)(model)} if model else {}
    witness = Witness(model.module if model else nn.Identity())
    trial.measure(**changes)
    witness.ensure_unchanged("after a run")


@metric_check
def exceptions_come_out(trial: Trial) -> None:
    """An exception inside the model's forward comes out, early or late, and leaves nothing behind."""
    trial.asks(Requirement.MODEL)
    model = lived_in(trial.known.model)
    names = list(leaves(model.module))
    fuse = Fuse({name: model.submodule(name) for name in (names[0], names[-1])})
    known = trial.given(model=model, method=type(trial.known.method)(model))
    witness = Witness(model.module)
    for place, at_call in product((names[0], names[-1]), (1, 2)):
        fuse.arm(place, at_call)
        known.cache.clear()
        try:
            trial.metric.measure(trial.maps, known)
            swallowed = fuse.blew
        except Boom:
            swallowed = False
        ensure(not swallowed, f"an exception in {place} is swallowed")
        witness.ensure_unchanged(f"after an exception in {place}")

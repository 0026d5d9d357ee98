"""Checks that a method leaves the model, the batch and the process as they came, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from seewhy.checks.core import ensure, ensure_same, expect
from seewhy.checks.method_case import Probe, method_check
from seewhy.checks.state import Fuse, Witness, change, clone, leaves, lived_in, tensor_state
from seewhy.core.cards import Capability
from seewhy.errors import TargetError
from seewhy.models.adapter import VisionModel
from seewhy.targets import Custom


@method_check
def model_untouched(probe: Probe) -> None:
    """After a run: weights, modes, hooks, gradients, buffers, attributes and global state are as before."""
    model = lived_in(probe.model)
    witness = Witness(model.module)
    probe.maps(model=model)
    witness.ensure_unchanged("after a run")


@method_check
def untouched_after_bad_target(probe: Probe) -> None:
    """A target that cannot be is a `TargetError`, and one that fails half-way its own error; nothing stays behind."""
    if not probe.card.class_specific:
        return
    model = lived_in(probe.model)
    witness = Witness(model.module)
    for what, target in probe.bad_targets():
        with expect(TargetError, what):
            probe.maps(target=target, model=model)
        witness.ensure_unchanged(f"after {what}")
    on = Capability.LOGITS if Capability.LOGITS in model.capabilities else Capability.EMBEDDING
    with expect(Exception, "a target that fails"):
        probe.maps(target=Custom(_failing, on=on), model=model)
    witness.ensure_unchanged("after a target that fails")


def _failing(_: Tensor) -> Tensor:
    raise ZeroDivisionError("the user's target has a bug")


@method_check
def untouched_after_exception(probe: Probe) -> None:
    """An exception inside forward, early or late, in the first pass or a later one, comes out and leaves nothing."""
    model = lived_in(probe.model)
    fuse = Fuse({name: model.submodule(name) for name in _places(model)})
    witness = Witness(model.module)
    early, *late = _places(model)
    for place, at_call in [(early, 1), (early, 2), *((p, 1) for p in late), *((p, 2) for p in late[-1:])]:
        fuse.arm(place, at_call)
        swallowed = _survives(probe, model) and fuse.blew
        ensure(not swallowed, f"an exception in {place} is swallowed")
        witness.ensure_unchanged(f"after an exception in {place}")


def _survives(probe: Probe, model: VisionModel) -> bool:
    try:
        probe.maps(model=model)
    except Exception:
        return False
    return True


def _places(model: VisionModel) -> Iterator[str]:
    """The first leaf, three of the last block or stage (first, middle, last), and the last of all."""
    structure, names = model.structure, list(leaves(model.module))
    deepest = structure.blocks[-1].name if structure.blocks else structure.stages[-1].name if structure.stages else ""
    late = [n for n in names if deepest and n.startswith(deepest)]
    some = [late[0], late[len(late) // 2], late[-1]] if late else []
    yield from dict.fromkeys([names[0], *some, names[-1]])


@method_check
def input_untouched(probe: Probe) -> None:
    """The batch keeps its values, its `requires_grad` and its `.grad`."""
    for wants_grad in (False, True):
        x = probe.x.clone().requires_grad_(wants_grad)
        before, version = tensor_state(x, "the batch"), x._version
        probe.maps(x)
        what = change(before, tensor_state(x, "the batch")) or ("the batch" if x._version != version else "")
        ensure(not what, f"{what} is not what it was")


@method_check
def training_mode_ignored(probe: Probe) -> None:
    """A model in training mode (dropout, batch statistics) is explained as in eval mode."""
    maps = []
    for training in (False, True):
        model = clone(probe.model)
        model.module.train(training)
        maps.append(probe.maps(model=model))
    ensure_same(*maps, "a model in training mode gets another map")


@method_check
def frozen_model_works(probe: Probe) -> None:
    """A model whose parameters want no gradients gets the same map."""
    model = clone(probe.model)
    model.module.requires_grad_(False)
    ensure_same(probe.plain, probe.maps(model=model), "a frozen model gets another map")

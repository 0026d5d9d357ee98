"""Checks that a method leaves the model, the batch and the process as they came, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from seewhy.checks.core import ensure, ensure_same, expect
from seewhy.checks.method_case import MethodCase, method_check
from seewhy.checks.state import FailureInjector, StateSnapshot, change, clone, leaves, messy_copy, tensor_state
from seewhy.core.cards import Capability
from seewhy.errors import TargetError
from seewhy.models.adapter import VisionModel
from seewhy.targets import Custom


@method_check
def check_method_leaves_model_untouched(case: MethodCase) -> None:
    """Check that after a run weights, modes, hooks, gradients, buffers, attributes and global state are as before."""
    model = messy_copy(case.model)
    snapshot = StateSnapshot(model.module)
    case.maps(model=model)
    snapshot.ensure_unchanged("after a run")


@method_check
def check_untouched_after_bad_target(case: MethodCase) -> None:
    """Check that a wrong target is a `TargetError`, one that fails half-way its own error; nothing stays behind."""
    if not case.card.class_specific:
        return
    model = messy_copy(case.model)
    snapshot = StateSnapshot(model.module)
    for what, target in case.bad_targets():
        with expect(TargetError, what):
            case.maps(target=target, model=model)
        snapshot.ensure_unchanged(f"after {what}")
    on = Capability.LOGITS if Capability.LOGITS in model.capabilities else Capability.EMBEDDING
    with expect(Exception, "a target that fails"):
        case.maps(target=Custom(_failing, on=on), model=model)
    snapshot.ensure_unchanged("after a target that fails")


def _failing(_: Tensor) -> Tensor:
    raise ZeroDivisionError("the user's target has a bug")


@method_check
def check_untouched_after_exception(case: MethodCase) -> None:
    """Check that an exception inside forward, early or late, in any pass, comes out and leaves nothing behind."""
    model = messy_copy(case.model)
    injector = FailureInjector({name: model.submodule(name) for name in _places(model)})
    snapshot = StateSnapshot(model.module)
    early, *late = _places(model)
    for place, at_call in [(early, 1), (early, 2), *((p, 1) for p in late), *((p, 2) for p in late[-1:])]:
        injector.arm(place, at_call)
        swallowed = _survives(case, model) and injector.triggered
        ensure(not swallowed, f"an exception in {place} is swallowed")
        snapshot.ensure_unchanged(f"after an exception in {place}")


def _survives(case: MethodCase, model: VisionModel) -> bool:
    try:
        case.maps(model=model)
    except Exception:
        return False
    return True


def _places(model: VisionModel) -> Iterator[str]:
    """Yield the first leaf, three of the last block or stage (first, middle, last), and the last of all."""
    structure, names = model.structure, list(leaves(model.module))
    deepest = structure.blocks[-1].name if structure.blocks else structure.stages[-1].name if structure.stages else ""
    late = [n for n in names if deepest and n.startswith(deepest)]
    some = [late[0], late[len(late) // 2], late[-1]] if late else []
    yield from dict.fromkeys([names[0], *some, names[-1]])


@method_check
def check_batch_untouched(case: MethodCase) -> None:
    """Check that the batch keeps its values, its `requires_grad` and its `.grad`."""
    for wants_grad in (False, True):
        x = case.x.clone().requires_grad_(wants_grad)
        before, version = tensor_state(x, "the batch"), x._version
        maps = case.maps(x)
        what = change(before, tensor_state(x, "the batch")) or ("the batch" if x._version != version else "")
        ensure(not what, f"{what} is not what it was")
        ensure(not maps.requires_grad, "the map of a batch that requires gradients drags a graph behind it")
        ensure_same(case.plain, maps, "a batch that requires gradients gets another map")


@method_check
def check_training_mode(case: MethodCase) -> None:
    """Check that a model in training mode (dropout, batch statistics) is explained as in eval mode."""
    evaluated, trained = clone(case.model), clone(case.model)
    evaluated.module.eval()
    trained.module.train()
    ensure_same(case.maps(model=evaluated), case.maps(model=trained), "a model in training mode gets another map")


@method_check
def check_frozen_model(case: MethodCase) -> None:
    """Check that a model whose parameters want no gradients gets the same map."""
    model = clone(case.model)
    model.module.requires_grad_(False)
    ensure_same(case.plain, case.maps(model=model), "a frozen model gets another map")

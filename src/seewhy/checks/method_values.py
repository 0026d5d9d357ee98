"""Checks of what a method gives: the maps themselves, and what they depend on."""

from __future__ import annotations

from contextlib import AbstractContextManager
from unittest import SkipTest

import torch
from torch import Tensor

from seewhy.checks.core import TOLERANCE, ensure, ensure_same, expect, gap, seed_everything
from seewhy.checks.method_case import MethodCase, method_check
from seewhy.checks.state import PassCounter, clone
from seewhy.core.cards import Capability
from seewhy.core.options import options_of
from seewhy.errors import NonFiniteError, RequirementError, TargetError
from seewhy.methods.base import Method
from seewhy.targets import ClassTarget

_ON_PATCHES = {Capability.TOKENS, Capability.ATTENTION, Capability.CLASS_TOKEN, Capability.LAST_BLOCK}


def _grid(method: Method, x: Tensor) -> tuple[int, int] | None:
    """Return the grid that the method's card and layer promise; None where they leave it open."""
    height, width = x.shape[-2:]
    if method.cut_layer is not None:
        rows, cols = method.model.activations(x, [method.cut_layer])[method.cut_layer.name].shape[-2:]
        return rows, cols
    if method.card.needs & _ON_PATCHES:
        return method.model.grid(height, width)
    return (height, width) if method.card.needs == {Capability.GRADIENTS} else None


@method_check
def check_grid_and_dtype(case: MethodCase) -> None:
    """Check for (B, rows, cols) on the grid of layer, patches or pixels; finite float32 on the input's device."""
    maps, grid = case.plain, _grid(case.method(), case.x)
    ensure(maps.ndim == 3 and len(maps) == len(case.x), f"shape {tuple(maps.shape)} is not (batch, rows, cols)")
    ensure(grid is None or tuple(maps.shape[1:]) == grid, f"the grid is {tuple(maps.shape[1:])}, not {grid}")
    fits = all(m <= s for m, s in zip(maps.shape[1:], case.x.shape[-2:], strict=True))
    ensure(fits, f"the grid {tuple(maps.shape[1:])} is finer than the input's pixels")
    ensure(maps.dtype == torch.float32, f"the map is {maps.dtype}, not torch.float32")
    ensure(maps.device == case.x.device, f"the map is on {maps.device}, the input on {case.x.device}")
    ensure(torch.isfinite(maps).all(), "the map holds NaN or infinity")


@method_check
def check_map_independent_of_batch(case: MethodCase) -> None:
    """Check that an image's map does not depend on the batch that it is in, nor on its place in it."""
    maps, n = case.plain, len(case.x)
    singles = torch.cat([case.maps(case.x[i : i + 1], case.target.at([i])) for i in range(n)])
    ensure_same(maps, singles, "a batch differs from its images one by one")
    order = [*range(1, n), 0]
    ensure_same(case.maps(case.x[order], case.target.at(order)), maps[order], "a batch in another order differs")


@method_check
def check_target_per_image(case: MethodCase) -> None:
    """Check that copies of one image with a target each get the maps that they get with that target for all."""
    same = case.x[:1].expand(len(case.x), -1, -1, -1)
    alone = [case.maps(same, case.target.at([i] * len(same)))[:1] for i in range(len(same))]
    ensure_same(case.maps(same), torch.cat(alone), "an image does not get the map of its own target")


@method_check
def check_image_index(case: MethodCase) -> None:
    """Check that each of several targets of one image (`image_index`) gets its own map.

    Where the method shares forwards, those of an image serve all of its targets (above the layer of a method that runs
    the class token alone, one of many tokens, it may run for each); else every map has its own.
    """
    index, targets = [1, 0, 1, 1], case.target.at([0, 1, 0, 1])
    model = clone(case.model)
    counter = PassCounter(model)
    method = case.method(model)
    two_targets = case.target.at([0, 1])
    method(case.x[:2], two_targets)
    alone = dict(counter.forward)
    counter.reset()
    together = method(case.x[:2], targets, image_index=index)
    shared = dict(counter.forward)
    ensure_same(together, method(case.x[index], targets), "a map depends on which other targets its image has")
    if case.card.class_specific and method.shares_forwards:
        more = [name for name in alone if shared[name] > alone[name] and not _is_row(method, name)]
        ensure(not more, f"{(more or [''])[0]} runs more often for several targets of an image than for one")


def _is_row(method: Method, leaf: str) -> bool:
    """Tell whether a leaf runs for the class token alone: in the last block, or outside of all blocks, after them."""
    blocks = [block.name for block in method.model.structure.blocks]
    if "row" not in method.cost.parts:
        return False
    in_last = leaf.startswith(f"{blocks[-1]}.")
    order = [name for name, _ in method.model.module.named_modules()]
    return in_last or order.index(leaf) > order.index(blocks[-1])


@method_check
def check_default_target(case: MethodCase) -> None:
    """Check that without a target the model's answer is explained; a method for concepts asks for one."""
    if case.card.target_kind is not None:
        with expect(TargetError, "no target"):
            case.method()(case.x)
    elif case.card.class_specific and Capability.LOGITS in case.model.capabilities:
        answer = ClassTarget(tuple(case.output.require(Capability.LOGITS).argmax(1).tolist()))
        ensure_same(case.method()(case.x), case.maps(target=answer), "the default is not the model's answer")


@method_check
def check_class_specificity(case: MethodCase) -> None:
    """Check that another target gives another map if, and only if, the card says class-specific."""
    other = gap(case.plain, case.maps(target=case.other_target()))
    if case.card.class_specific:
        ensure(other > TOLERANCE, "the card says class-specific, but another target gives the same map")
    else:
        ensure(other == 0, "the card says label-free, but another target gives another map")


@method_check
def check_sign(case: MethodCase) -> None:
    """Check for negative and positive values if signed, and for no evidence against the target if unsigned.

    So an unsigned map is never negative, with one exception: a label-free method that shows a layer's own
    activations (LaFAM before a ReLU, or on tokens) may go as low as these do, because nothing is for or against.
    In the same way a label-free method has its negative values from the embedding; of one without, nothing is asked.
    """
    maps = torch.stack([case.plain, case.maps(target=case.other_target())])
    low, high = float(maps.min()), float(maps.max())
    if case.card.signed:
        if low >= 0 and not case.card.class_specific and case.output.require(Capability.EMBEDDING).min() >= 0:
            raise SkipTest("this embedding has no negative numbers that a label-free map could show")
        ensure(low < 0 < high, f"the card says signed, but all values lie in {low:.3g} … {high:.3g}")
        return
    floor = 0.0
    layer = case.method().cut_layer
    if layer is not None and not case.card.class_specific:
        floor = min(0.0, float(case.model.activations(case.x, [layer])[layer.name].min()))
    ensure(low >= floor, f"the card says unsigned, but the map goes down to {low:.3g}")


@method_check
def check_constant_image(case: MethodCase) -> None:
    """Check that an image of one color gives a finite map (nothing is divided by its range)."""
    for level in (0.0, 0.5):
        maps = case.maps(torch.full_like(case.x, level))
        ensure(torch.isfinite(maps).all(), f"an image that is {level} everywhere gives NaN or infinity")


@method_check
def check_dependence_on_weights(case: MethodCase) -> None:
    """Check that random weights give another map, if the method runs the model at all."""
    other = clone(case.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in other.module.parameters():
            width = max(0.1, float(p.float().std())) if p.numel() > 1 else 0.1
            p.copy_(torch.randn(p.shape, generator=generator) * width)
    # around their means: an average of similarities is near one whatever the weights
    change = gap(*(m - m.mean((1, 2), keepdim=True) for m in (case.plain, case.maps(model=other))))
    if case.method().cost.forward:
        ensure(change > 0.1, "random weights leave the map as it was: it does not depend on the model")


@method_check
def check_nan_weights(case: MethodCase) -> None:
    """Check that NaN in the first weights, or in those of the head, is an error, never a map."""
    names = [n.rpartition(".")[0] for n, _ in case.model.module.named_parameters()]
    head = case.model.structure.head
    places = {names[0]: case.method().cost.forward > 0}
    if head and case.card.class_specific and isinstance(case.target, ClassTarget):
        places[head] = True
    for place in (name for name, reaches in places.items() if reaches):
        broken = clone(case.model)
        with torch.no_grad():
            for p in broken.submodule(place).parameters(recurse=place == head):
                p.fill_(torch.nan)
        with expect(NonFiniteError, f"NaN in the weights of {place or 'the model'}"):
            case.maps(model=broken)


@method_check
def check_method_seed(case: MethodCase) -> None:
    """Check that two runs agree bit by bit whatever the global seed; another `seed` moves the map iff stochastic."""
    runs = []
    for seed in (1, 2):
        seed_everything(seed)
        runs.append(case.maps())
    ensure(torch.equal(*runs), "two runs differ: it draws from the global random state")
    has_seed = "seed" in options_of(case.cls)
    ensure(
        has_seed == case.card.stochastic,
        f"the card says {'' if case.card.stochastic else 'not '}stochastic, but the method has "
        f"{'an' if has_seed else 'no'} option `seed`",
    )
    if case.card.stochastic:
        other = gap(runs[0], case.maps(seed=12345))
        ensure(other > 0, "the card says stochastic, but another seed gives the same map")


@method_check
def check_batch_size_invariance(case: MethodCase) -> None:
    """Check that the map does not depend on `batch_size`."""
    if "batch_size" in options_of(case.cls):
        ensure_same(case.plain, case.maps(batch_size=1), "batch_size changes the map")


@method_check
def check_grad_modes(case: MethodCase) -> None:
    """Check for the same map inside `torch.no_grad()` and `torch.inference_mode()`, batch and target made there."""
    maps = case.plain
    ensure(not maps.requires_grad, "the map drags a graph behind it")
    modes: dict[str, AbstractContextManager[None]] = {
        "no_grad": torch.no_grad(),
        "inference_mode": torch.inference_mode(),
    }
    for name, mode in modes.items():
        with mode:
            inside = case.maps(case.x * 1, case.copied_target())
        ensure_same(maps, inside, f"inside torch.{name}() the map differs")
        ensure(not inside.is_inference(), f"inside torch.{name}() the map cannot take part in autograd any more")


@method_check
def check_inference_weights(case: MethodCase) -> None:
    """Check that a model made in `torch.inference_mode()`, useless for autograd, is served or refused at once."""
    with torch.inference_mode():
        model = clone(case.model)
    if Capability.GRADIENTS in case.card.needs:
        with expect(RequirementError, "a model made in inference mode"):
            case.method(model)
    else:
        ensure_same(case.plain, case.maps(model=model), "a model made in inference mode gets another map")


@method_check
def check_autocast(case: MethodCase) -> None:
    """Check that under bf16 autocast the map is float32 and close to the full one, unless the card says why not."""
    if case.card.autocast:
        return
    maps = case.plain
    with torch.autocast(case.x.device.type, torch.bfloat16):
        half = case.maps()
    ensure(half.dtype == torch.float32, f"under autocast the map is {half.dtype}, not torch.float32")
    both = torch.stack([maps.flatten(), half.flatten()]).double()
    flat = bool((both.std(1) == 0).any())
    agreement = 1.0 if flat and gap(maps, half) < 0.1 else float(torch.corrcoef(both)[0, 1])
    ensure(agreement > 0.9, f"under bf16 autocast the map correlates {agreement:.2f} with the float32 map")


@method_check
def check_input_forms(case: MethodCase) -> None:
    """Check that a float64 or channels-last batch or model gives the same float32 map."""
    maps = case.plain
    forms = {
        "a float64 batch": case.x.double(),
        "a channels-last batch": case.x.to(memory_format=torch.channels_last),
    }
    for name, x in forms.items():
        ensure_same(maps, case.maps(x), f"{name} gives another map")
    channels_last = clone(case.model)
    for p in channels_last.module.parameters():
        if p.ndim == 4:  # as Module.to(memory_format=…) does, whose signature in torch has no such argument
            p.data = p.data.to(memory_format=torch.channels_last)
    ensure_same(maps, case.maps(model=channels_last), "a channels-last model gives another map")
    double = clone(case.model)
    double.module.double()
    exact = case.maps(case.x.double(), model=double)
    ensure(exact.dtype == torch.float32, f"a float64 model gives a {exact.dtype} map, not torch.float32")
    ensure_same(maps, exact, "a float64 model gives another map")

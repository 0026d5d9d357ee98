"""Checks of what a method gives: the maps themselves, and what they depend on."""

from __future__ import annotations

from contextlib import AbstractContextManager
from unittest import SkipTest

import torch
from torch import Tensor

from seewhy.checks.core import TOLERANCE, ensure, ensure_same, expect, gap, seed_everything
from seewhy.checks.method_case import Probe, method_check
from seewhy.checks.state import clone
from seewhy.core.cards import Capability
from seewhy.core.options import options_of
from seewhy.errors import NonFiniteError, TargetError
from seewhy.methods.base import Method
from seewhy.targets import ClassTarget

_ON_PATCHES = {Capability.TOKENS, Capability.ATTENTION, Capability.CLASS_TOKEN, Capability.LAST_BLOCK}


def _grid(method: Method, x: Tensor) -> tuple[int, int] | None:
    """The grid that the method's card and layer promise; None where they leave it open."""
    if method.cut_layer is not None:
        return tuple(method.model.activations(x, [method.cut_layer])[method.cut_layer.name].shape[-2:])
    if method.card.needs & _ON_PATCHES:
        return method.model.grid(*x.shape[-2:])
    return tuple(x.shape[-2:]) if method.card.needs == {Capability.GRADIENTS} else None


@method_check
def grid_and_dtype(probe: Probe) -> None:
    """(B, rows, cols) on the grid of the layer, the patches or the pixels; finite float32 on the input's device."""
    maps, grid = probe.plain, _grid(probe.method(), probe.x)
    ensure(maps.ndim == 3 and len(maps) == len(probe.x), f"shape {tuple(maps.shape)} is not (batch, rows, cols)")
    ensure(grid is None or tuple(maps.shape[1:]) == grid, f"the grid is {tuple(maps.shape[1:])}, not {grid}")
    fits = all(m <= s for m, s in zip(maps.shape[1:], probe.x.shape[-2:], strict=True))
    ensure(fits, f"the grid {tuple(maps.shape[1:])} is finer than the input's pixels")
    ensure(maps.dtype == torch.float32, f"the map is {maps.dtype}, not torch.float32")
    ensure(maps.device == probe.x.device, f"the map is on {maps.device}, the input on {probe.x.device}")
    ensure(torch.isfinite(maps).all(), "the map holds NaN or infinity")


@method_check
def batch_equals_singles(probe: Probe) -> None:
    """An image's map does not depend on the batch that it is in, nor on its place in it."""
    maps, n = probe.plain, len(probe.x)
    singles = torch.cat([probe.maps(probe.x[i : i + 1], probe.target.at([i])) for i in range(n)])
    ensure_same(maps, singles, "a batch differs from its images one by one")
    order = [*range(1, n), 0]
    ensure_same(probe.maps(probe.x[order], probe.target.at(order)), maps[order], "a batch in another order differs")


@method_check
def targets_by_image(probe: Probe) -> None:
    """Copies of one image with a target each get the maps that they get with that target for all."""
    same = probe.x[:1].expand(len(probe.x), -1, -1, -1)
    alone = [probe.maps(same, probe.target.at([i] * len(same)))[:1] for i in range(len(same))]
    ensure_same(probe.maps(same), torch.cat(alone), "an image does not get the map of its own target")


@method_check
def default_target_is_the_answer(probe: Probe) -> None:
    """Without a target, the class that the model answers is explained; a method for concepts asks for one."""
    if probe.card.target_kind is not None:
        with expect(TargetError, "no target"):
            probe.method()(probe.x)
    elif probe.card.class_specific and Capability.LOGITS in probe.model.capabilities:
        answer = ClassTarget(tuple(probe.output.require(Capability.LOGITS).argmax(1).tolist()))
        ensure_same(probe.method()(probe.x), probe.maps(target=answer), "the default is not the model's answer")


@method_check
def target_matters(probe: Probe) -> None:
    """Another target gives another map if, and only if, the card says class-specific."""
    other = gap(probe.plain, probe.maps(target=probe.other_target()))
    if probe.card.class_specific:
        ensure(other > TOLERANCE, "the card says class-specific, but another target gives the same map")
    else:
        ensure(other == 0, "the card says label-free, but another target gives another map")


@method_check
def sign_as_declared(probe: Probe) -> None:
    """Signed: negative and positive values both occur. Unsigned: no value reads as evidence against the target.

    So an unsigned map is never negative, with one exception: a label-free method that shows a layer's own
    activations (LaFAM before a ReLU, or on tokens) may go as low as these do, because nothing is for or against.
    In the same way a label-free method has its negative values from the embedding; of one without, nothing is asked.
    """
    maps = torch.stack([probe.plain, probe.maps(target=probe.other_target())])
    low, high = float(maps.min()), float(maps.max())
    if probe.card.signed:
        if low >= 0 and not probe.card.class_specific and probe.output.require(Capability.EMBEDDING).min() >= 0:
            raise SkipTest("this embedding has no negative numbers that a label-free map could show")
        ensure(low < 0 < high, f"the card says signed, but all values lie in {low:.3g} … {high:.3g}")
        return
    floor = 0.0
    layer = probe.method().cut_layer
    if layer is not None and not probe.card.class_specific:
        floor = min(0.0, float(probe.model.activations(probe.x, [layer])[layer.name].min()))
    ensure(low >= floor, f"the card says unsigned, but the map goes down to {low:.3g}")


@method_check
def flat_image(probe: Probe) -> None:
    """An image of one color gives a finite map (nothing is divided by its range)."""
    for level in (0.0, 0.5):
        maps = probe.maps(torch.full_like(probe.x, level))
        ensure(torch.isfinite(maps).all(), f"an image that is {level} everywhere gives NaN or infinity")


@method_check
def weights_matter(probe: Probe) -> None:
    """Random weights give another map, if the method runs the model at all."""
    other = clone(probe.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in other.module.parameters():
            width = max(0.1, float(p.float().std())) if p.numel() > 1 else 0.1
            p.copy_(torch.randn(p.shape, generator=generator) * width)
    # around their means: an average of similarities is near one whatever the weights
    change = gap(*(m - m.mean((1, 2), keepdim=True) for m in (probe.plain, probe.maps(model=other))))
    if probe.method().cost.forward:
        ensure(change > 0.1, "random weights leave the map as it was: it does not depend on the model")


@method_check
def nan_weights_raise(probe: Probe) -> None:
    """NaN in the first weights, or in those of the head, is an error, never a map."""
    names = [n.rpartition(".")[0] for n, _ in probe.model.module.named_parameters()]
    head = probe.model.structure.head
    places = {names[0]: probe.method().cost.forward > 0}
    if head and probe.card.class_specific and isinstance(probe.target, ClassTarget):
        places[head] = True
    for place in (name for name, reaches in places.items() if reaches):
        broken = clone(probe.model)
        with torch.no_grad():
            for p in broken.submodule(place).parameters(recurse=place == head):
                p.fill_(torch.nan)
        with expect(NonFiniteError, f"NaN in the weights of {place or 'the model'}"):
            probe.maps(model=broken)


@method_check
def seeded_runs_repeat(probe: Probe) -> None:
    """Two runs give the same bits whatever the global seed; another `seed` gives another map iff stochastic."""
    runs = []
    for seed in (1, 2):
        seed_everything(seed)
        runs.append(probe.maps())
    ensure(torch.equal(*runs), "two runs differ: it draws from the global random state")
    has_seed = "seed" in options_of(probe.cls)
    ensure(
        has_seed == probe.card.stochastic,
        f"the card says {'' if probe.card.stochastic else 'not '}stochastic, but the method has "
        f"{'an' if has_seed else 'no'} option `seed`",
    )
    if probe.card.stochastic:
        other = gap(runs[0], probe.maps(seed=12345))
        ensure(other > 0, "the card says stochastic, but another seed gives the same map")


@method_check
def chunks_do_not_matter(probe: Probe) -> None:
    """`batch_size` trades memory for speed; the map is the same."""
    if "batch_size" in options_of(probe.cls):
        ensure_same(probe.plain, probe.maps(batch_size=1), "batch_size changes the map")


@method_check
def any_grad_mode(probe: Probe) -> None:
    """Inside `torch.no_grad()` and `torch.inference_mode()`, also on a batch made there, the map is the same."""
    maps = probe.plain
    ensure(not maps.requires_grad, "the map drags a graph behind it")
    modes: dict[str, AbstractContextManager] = {"no_grad": torch.no_grad(), "inference_mode": torch.inference_mode()}
    for name, mode in modes.items():
        with mode:
            inside = probe.maps(probe.x * 1)
        ensure_same(maps, inside, f"inside torch.{name}() the map differs")


@method_check
def autocast_agrees(probe: Probe) -> None:
    """Under bf16 autocast the map is float32 and close to the full one, unless the card says why not."""
    if probe.card.autocast:
        return
    maps = probe.plain
    with torch.autocast(probe.x.device.type, torch.bfloat16):
        half = probe.maps()
    ensure(half.dtype == torch.float32, f"under autocast the map is {half.dtype}, not torch.float32")
    both = torch.stack([maps.flatten(), half.flatten()]).double()
    flat = bool((both.std(1) == 0).any())
    agreement = 1.0 if flat and gap(maps, half) < 0.1 else float(torch.corrcoef(both)[0, 1])
    ensure(agreement > 0.9, f"under bf16 autocast the map correlates {agreement:.2f} with the float32 map")


@method_check
def any_input_form(probe: Probe) -> None:
    """A float64 batch, a channels-last batch and a float64 model give the same float32 map."""
    maps = probe.plain
    forms = {
        "a float64 batch": probe.x.double(),
        "a channels-last batch": probe.x.to(memory_format=torch.channels_last),
    }
    for name, x in forms.items():
        ensure_same(maps, probe.maps(x), f"{name} gives another map")
    double = clone(probe.model)
    double.module.double()
    exact = probe.maps(probe.x.double(), model=double)
    ensure(exact.dtype == torch.float32, f"a float64 model gives a {exact.dtype} map, not torch.float32")
    ensure_same(maps, exact, "a float64 model gives another map")

"""Checks of a model's answer: what the structure says of it, and that asking leaves the module as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seewhy.checks.core import ensure, ensure_same
from seewhy.checks.model_case import answer, model_check, stages_of
from seewhy.checks.state import StateSnapshot, messy_copy
from seewhy.core.cards import Capability
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import hooked, untouched


@model_check
def check_capabilities(model: VisionModel, x: Tensor) -> None:
    """Check that logits, embedding, prefix tokens and class names are there as the structure says."""
    output, offers, structure = model.run(x), model.capabilities, model.structure
    for need, value in ((Capability.LOGITS, output.logits), (Capability.EMBEDDING, output.embedding)):
        ensure(need not in offers or value is not None, f"it offers {need}, but a run gives none")
        ensure(need in offers or value is None, f"a run gives {need}, but it does not offer them")
    if output.logits is not None:
        width, names = output.logits.shape[1], model.class_names
        ensure(model.classes in (None, width), f"it says {model.classes} classes and gives {width} logits")
        ensure(names is None or len(names) == width, f"it has {len(names or ())} class names for {width} logits")
    ensure(not structure.class_token or structure.prefix_tokens, "a class token needs prefix_tokens of 1 or more")
    with torch.enable_grad():
        score = answer(model.run(x.detach().clone().requires_grad_()))
    ensure(score.requires_grad, "the answer has no gradient with respect to the input, but gradients are offered")


@model_check
def check_output_equals_module(model: VisionModel, x: Tensor) -> None:
    """Check that logits and embedding are exactly those of the plain module."""
    output = model.run(x)
    plain = model.module(x, **model.structure.call)
    expected = model.structure.read(plain, output.embedding if model.structure.head is not None else None)
    for name in ("logits", "embedding"):
        a, b = getattr(output, name), getattr(expected, name)
        same = a is b if a is None or b is None else torch.equal(a, b)
        ensure(same, f"{name} of the adapter and of the plain module differ")


@model_check
def check_embedding_feeds_head(model: VisionModel, x: Tensor) -> None:
    """Check for one embedding per image, different for different images, from which the head makes the logits."""
    output, head = model.run(x), model.structure.head
    embedding = output.require(Capability.EMBEDDING)
    shape = tuple(embedding.shape)
    ensure(len(shape) == 2 and shape[0] == len(x), f"the embedding is {shape}, not (batch, dim)")
    ensure(bool((embedding[0] != embedding[1]).any()), "different images have the same embedding")
    if head is None or output.logits is None:
        return
    made: list[Tensor] = []

    def double(_: nn.Module, __: tuple[Any, ...], result: Tensor) -> Tensor:
        made.append(result)
        return 2 * result

    with hooked(model.submodule(head), double):
        doubled = model.run(x).require(Capability.LOGITS)
    ensure(len(made) == 1, f"the head {head!r} runs {len(made)} times in a forward, not once")
    shape = tuple(made[0].flatten(1).shape)
    ensure(shape == tuple(output.logits.shape), f"{head!r} gives {shape}: it is not the head")
    ensure(not torch.equal(doubled, output.logits), f"the logits do not depend on {head!r}: it is not the head")


@model_check
def check_output_independent_of_batch(model: VisionModel, x: Tensor) -> None:
    """Check that answer and feature maps of an image do not depend on the other images of its batch."""
    singles = [x[i : i + 1] for i in range(len(x))]
    ensure_same(answer(model.run(x)), torch.cat([answer(model.run(s)) for s in singles]), "the answer differs")
    maps = model.activations(x, model.structure.stages) if model.structure.stages else {}
    for name, value in maps.items():
        layer = model.layer(name)
        alone = torch.cat([model.activations(s, [layer])[name] for s in singles])
        ensure_same(value, alone, f"the feature map of {name} differs")


@model_check
def check_tail(model: VisionModel, x: Tensor) -> None:
    """Check that from a layer's stored value, the part above it gives the model's answer, also for two batches."""
    plain = answer(model.run(x))
    for layer in dict.fromkeys([*stages_of(model), model.cam_layer()]):
        tail = model.tail(x, layer)
        ensure_same(answer(tail(tail.value)), plain, f"from the value at {layer.name!r} on, the answer differs")
        twice = answer(tail(torch.cat([tail.value, tail.value])))
        ensure_same(twice, torch.cat([plain, plain]), f"two batches at {layer.name!r} give another answer than one")


@model_check
def check_module_untouched(model: VisionModel, x: Tensor) -> None:
    """Check that the module is as it was after every call, also after one that fails half-way."""
    model = messy_copy(model)
    calls: dict[str, Callable[[], object]] = {
        "forward_checked": lambda: model.forward_checked(x),
        "activations": lambda: model.activations(x, model.structure.stages),
        "activations of a wrong input": lambda: model.activations(x[:, :1], model.structure.stages),
    }
    if model.structure.stages:
        calls["tail"] = lambda: _tail_twice(model, x)
    if model.structure.blocks:
        calls["tokens"] = lambda: model.tokens(x)
        calls["attention"] = lambda: _read_attention(model, x)
    snapshot = StateSnapshot(model.module)
    for name, call in calls.items():
        try:
            call()
        except Exception:
            ensure("wrong" in name, f"{name} fails on a model that is partly frozen and has hooks of its own")
        snapshot.ensure_unchanged(f"after {name}")


def _tail_twice(model: VisionModel, x: Tensor) -> None:
    with untouched(model.module):
        tail = model.tail(x, model.cam_layer())
        tail(tail.value)


def _read_attention(model: VisionModel, x: Tensor) -> None:
    with untouched(model.module), model.attention(lambda *_: None, x):
        model.run(x)

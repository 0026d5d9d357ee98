"""Checks of adapters: that a `VisionModel` keeps what its `Structure` says, where it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from unittest import SkipTest

import torch
from torch import Tensor

from seewhy.checks.core import Check, batch_for, ensure, ensure_same, entered, expect, named, run_all
from seewhy.checks.state import StateSnapshot, messy_copy
from seewhy.core.cards import Capability
from seewhy.errors import SeewhyError, UnknownNameError
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import hooked, untouched
from seewhy.models.structure import Layer
from seewhy.targets import Output

MODEL_CHECKS: list[tuple[str, Check]] = []
"""Every check of an adapter as (name, check), filled by the decorator; `check(model, x=None)`."""


def model_check(fn: Callable[[VisionModel, Tensor], None]) -> Check:
    """Make a public check of a function of a model and a batch, and put it on `MODEL_CHECKS`."""

    def check(model: VisionModel, x: Tensor | None = None) -> None:
        with named(model.name, fn.__name__), torch.no_grad(), untouched(model.module):
            fn(model, batch_for(model, x))

    return entered(MODEL_CHECKS, fn, check)


def check_model(model: VisionModel, x: Tensor | None = None) -> dict[str, str]:
    """Run every check of an adapter.

    Args:
        model: small is enough. One whose input is not square finds more mistakes.
        x: a preprocessed batch of at least two different images (default: three made images).

    Returns:
        The checks that did not apply, with the reason.

    Raises:
        ContractError: the first check that fails, with the others as its notes.
    """
    with torch.no_grad(), untouched(model.module):
        return run_all(MODEL_CHECKS, model.name, model, batch_for(model, x))


def _answer(output: Output) -> Tensor:
    return output.embedding if output.logits is None else output.logits


def _blocks(model: VisionModel) -> int:
    if not model.structure.blocks:
        raise SkipTest(f"{model.name} has no transformer blocks with global attention")
    return len(model.structure.blocks)


def _stages(model: VisionModel) -> tuple[Layer, ...]:
    if not model.structure.stages:
        raise SkipTest(f"{model.name} has no feature maps on a grid")
    return model.structure.stages


@model_check
def check_capabilities(model: VisionModel, x: Tensor) -> None:
    """Logits, embedding, prefix tokens, class names and the number of classes are there as the structure says."""
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
        score = _answer(model.run(x.detach().clone().requires_grad_()))
    ensure(score.requires_grad, "the answer has no gradient with respect to the input, but gradients are offered")


@model_check
def check_output_equals_module(model: VisionModel, x: Tensor) -> None:
    """Logits and embedding are exactly those of the plain module, call after call."""
    output = model.run(x)
    plain = model.module(x, **model.structure.call)
    expected = model.structure.read(plain, output.embedding if model.structure.head is not None else None)
    for name in ("logits", "embedding"):
        a, b = getattr(output, name), getattr(expected, name)
        same = a is b if a is None or b is None else torch.equal(a, b)
        ensure(same, f"{name} of the adapter and of the plain module differ")


@model_check
def check_embedding_feeds_head(model: VisionModel, x: Tensor) -> None:
    """One vector per image, different for different images; what the head makes of it are, or go into, the logits."""
    output, head = model.run(x), model.structure.head
    embedding = output.require(Capability.EMBEDDING)
    shape = tuple(embedding.shape)
    ensure(len(shape) == 2 and shape[0] == len(x), f"the embedding is {shape}, not (batch, dim)")
    ensure(bool((embedding[0] != embedding[1]).any()), "different images have the same embedding")
    if head is None or output.logits is None:
        return
    made: list[Tensor] = []
    with hooked(model.submodule(head), lambda _, __, out: made.append(out) or 2 * out):
        doubled = model.run(x).logits
    ensure(len(made) == 1, f"the head {head!r} runs {len(made)} times in a forward, not once")
    shape = tuple(made[0].flatten(1).shape)
    ensure(shape == tuple(output.logits.shape), f"{head!r} gives {shape}: it is not the head")
    ensure(not torch.equal(doubled, output.logits), f"the logits do not depend on {head!r}: it is not the head")


@model_check
def check_stage_grids(model: VisionModel, x: Tensor) -> None:
    """Each stage is (B, C, rows, cols) with the same stride both ways (in patches); grids do not grow with depth."""
    maps = model.activations(x, _stages(model))
    last = tuple(x.shape[-2:])
    for stage in model.structure.stages:
        value = maps[stage.name]
        shape, grid = tuple(value.shape), tuple(value.shape[-2:])
        ensure(len(shape) == 4 and shape[0] == len(x), f"{stage.name} gives {shape}, not (B, C, rows, cols)")
        ensure(all(g <= n for g, n in zip(grid, last, strict=True)), f"{stage.name} has a grid of {grid} after {last}")
        ensure(
            _one_stride(x.shape[-2:], grid, stage.stride or model.structure.patch_size or (1, 1)),
            f"{stage.name} has a grid of {grid} for {tuple(x.shape[-2:])} pixels: wrong axes?",
        )
        ensure(torch.isfinite(value).all(), f"{stage.name} gives NaN or infinity")
        last = grid


def _one_stride(size: Sequence[int], grid: tuple[int, int], unit: tuple[int, int]) -> bool:
    """Whether one stride (in units of the patch) explains both sides of the grid, up to one cell of rounding."""
    least = max(n / u / (g + 1) for n, g, u in zip(size, grid, unit, strict=True))
    most = min(n / u / max(g - 1, 0.5) for n, g, u in zip(size, grid, unit, strict=True))
    return least <= most


@model_check
def check_token_count(model: VisionModel, x: Tensor) -> None:
    """Every block gives prefix_tokens + rows·cols tokens."""
    depth, (rows, cols) = _blocks(model), model.grid(*x.shape[-2:])
    tokens = model.tokens(x)
    ensure(list(tokens) == list(range(depth)), f"tokens come from blocks {list(tokens)}, not from all {depth}")
    prefix = model.structure.prefix_tokens
    for block, value in tokens.items():
        ensure(
            value.ndim == 3 and value.shape[1] == prefix + rows * cols,
            f"block {block} gives {tuple(value.shape)}; expected {prefix} + {rows}×{cols} tokens",
        )


@model_check
def check_attention_rows(model: VisionModel, x: Tensor) -> None:
    """Rows of (B, heads, N, N) are not negative and sum to one; reading them leaves the answer as it is."""
    depth, plain = _blocks(model), _answer(model.run(x))
    found: dict[int, Tensor] = {}
    with model.attention(found.__setitem__, x):
        ensure(torch.equal(_answer(model.run(x)), plain), "the answer changes while attention is read")
    ensure(sorted(found) == list(range(depth)), f"attention comes from blocks {sorted(found)}, not from all {depth}")
    rows, cols = model.grid(*x.shape[-2:])
    tokens = model.structure.prefix_tokens + rows * cols
    for block, matrix in found.items():
        ensure(
            matrix.ndim == 4 and tuple(matrix.shape[-2:]) == (tokens, tokens) and len(matrix) == len(x),
            f"block {block} attends {tuple(matrix.shape)}, not (B, heads, {tokens}, {tokens})",
        )
        sums = matrix.float().sum(-1)
        ensure(matrix.min() >= 0 and (sums - 1).abs().max() < 1e-2, f"rows of block {block} are no distribution")
    some: dict[int, Tensor] = {}
    with model.attention(some.__setitem__, x, blocks=[-1], rows=slice(0, 1)):
        model.run(x)
    ensure_same(some[depth - 1], found[depth - 1][..., :1, :], "one row differs from that row of the whole matrix")
    with model.attention(some.__setitem__, x, blocks=[-1], differentiable=True):
        ensure_same(_answer(model.run(x)), plain, "the answer changes when attention is differentiable")


@model_check
def check_tail(model: VisionModel, x: Tensor) -> None:
    """From a layer's stored value, the part above it gives the model's answer, also for two batches in a row."""
    plain = _answer(model.run(x))
    for layer in dict.fromkeys([*_stages(model), model.cam_layer()]):
        tail = model.tail(x, layer)
        ensure_same(_answer(tail(tail.value)), plain, f"from the value at {layer.name!r} on, the answer differs")
        twice = _answer(tail(torch.cat([tail.value, tail.value])))
        ensure_same(twice, torch.cat([plain, plain]), f"two batches at {layer.name!r} give another answer than one")


@model_check
def check_cam_layer_reached(model: VisionModel, x: Tensor) -> None:
    """The answer depends on every cell of `cam_layer`, in at least one of the images."""
    _stages(model)
    layer = model.cam_layer()
    with model.leaf_at(layer) as leaf:
        answer = _answer(model.run(x))
        weights = torch.linspace(-1, 1, answer.shape[1], device=x.device, dtype=answer.dtype)
        ensure(answer.requires_grad, f"the answer has no gradient at {layer.name!r}")
        grad = torch.autograd.grad((answer * weights).sum(), leaf[0], allow_unused=True)[0]
    ensure(grad is not None, f"the answer does not depend on {layer.name!r}")
    cells = model.to_grid(grad, layer, x.shape[-2:]).abs().sum(1).amax(0)
    dead = int((cells == 0).sum())
    ensure(not dead, f"{dead} of {cells.numel()} cells of {layer.name!r} never matter")


@model_check
def check_output_independent_of_batch(model: VisionModel, x: Tensor) -> None:
    """Answer and feature maps of an image do not depend on the other images of its batch."""
    singles = [x[i : i + 1] for i in range(len(x))]
    ensure_same(_answer(model.run(x)), torch.cat([_answer(model.run(s)) for s in singles]), "the answer differs")
    for name, value in model.activations(x, model.structure.stages).items() if model.structure.stages else ():
        layer = model.layer(name)
        alone = torch.cat([model.activations(s, [layer])[name] for s in singles])
        ensure_same(value, alone, f"the feature map of {name} differs")


@model_check
def check_other_input_sizes(model: VisionModel, x: Tensor) -> None:
    """A wider image gives grids as wide in proportion, or a `SeewhyError` that says what the model takes."""
    wider = torch.cat([x, x], -1)
    stages = model.structure.stages
    before = model.activations(x, stages) if stages else {}
    try:
        model.forward_checked(wider)
        after = model.activations(wider, stages) if stages else {}
    except SeewhyError:
        return
    except Exception:
        if getattr(model.preprocess, "size", None) is None:
            raise SkipTest("its own preprocess function does not tell which size is right") from None
        raise
    for name, value in after.items():
        rows, cols = before[name].shape[-2:]
        # window models pad the feature map, so a cell more or less may be
        close = abs(value.shape[-1] - 2 * cols) <= 1 and value.shape[-2] == rows
        ensure(close, f"an image twice as wide takes {name} from {rows}×{cols} to {tuple(value.shape[-2:])}")


@model_check
def check_cell_locations(model: VisionModel, x: Tensor) -> None:
    """A change in a corner of the image changes the first stage most in that corner of the grid."""
    first = _stages(model)[0]
    before = model.activations(x, [first])[first.name]
    height, width = x.shape[-2:]
    rows, cols = before.shape[-2:]
    size = max(1, rows // 4), max(1, cols // 4)
    # the last patch may lie partly outside of the image
    cell = first.stride or model.structure.patch_size or (height / rows, width / cols)
    near = [round(n * c) for n, c in zip(size, cell, strict=True)]
    far = [
        length - round((g - n) * c) for length, g, n, c in zip((height, width), (rows, cols), size, cell, strict=True)
    ]
    for place in ("top left", "top right", "bottom left", "bottom right"):
        down, right = "bottom" in place, "right" in place
        changed = x.clone()
        extent = (far if down else near)[0], (far if right else near)[1]
        changed[..., _end(extent[0], height, down), _end(extent[1], width, right)] *= -2
        difference = (model.activations(changed, [first])[first.name] - before).abs().sum((0, 1))
        row, col = divmod(int(difference.argmax()), cols)
        inside = row in range(rows)[_end(size[0], rows, down)] and col in range(cols)[_end(size[1], cols, right)]
        ensure(inside, f"a change at the {place} of the image shows most in row {row}, column {col} of {rows}×{cols}")


def _end(size: int, length: int, far: bool) -> slice:
    return slice(length - size, length) if far else slice(0, size)


@model_check
def check_layer_lookup(model: VisionModel, x: Tensor) -> None:
    """Stages are found by name and number; an unknown layer is an `UnknownNameError`."""
    for i, stage in enumerate(_stages(model)):
        found = model.layer(stage.name) == stage == model.layer(i)
        ensure(found, f"{stage.name} is not found by name and number")
    with expect(UnknownNameError, "an unknown layer"):
        model.layer("no_such_layer")


@model_check
def check_module_untouched(model: VisionModel, x: Tensor) -> None:
    """Whatever is asked of it, also when that fails half-way, the module is afterwards as it was."""
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

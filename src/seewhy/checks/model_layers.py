"""Checks of a model's layers: that it keeps what its `Structure` says, where it says."""

from __future__ import annotations

from collections.abc import Sequence
from unittest import SkipTest

import torch
from torch import Tensor

from seewhy.checks.core import ensure, ensure_same, expect
from seewhy.checks.model_case import answer, depth_of, model_check, stages_of
from seewhy.errors import SeewhyError, UnknownNameError
from seewhy.models.adapter import VisionModel
from seewhy.models.probe import locate


@model_check
def check_stage_grids(model: VisionModel, x: Tensor) -> None:
    """Check that each stage is (B, C, rows, cols), with one stride both ways, and that grids do not grow with depth."""
    maps = model.activations(x, stages_of(model))
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


def _one_stride(size: Sequence[int], grid: Sequence[int], unit: Sequence[int]) -> bool:
    """Tell whether one stride (in units of the patch) explains both sides of the grid, up to one cell of rounding."""
    least = max(n / u / (g + 1) for n, g, u in zip(size, grid, unit, strict=True))
    most = min(n / u / max(g - 1, 0.5) for n, g, u in zip(size, grid, unit, strict=True))
    return least <= most


@model_check
def check_token_count(model: VisionModel, x: Tensor) -> None:
    """Check that every block gives prefix_tokens + rows·cols tokens."""
    depth, (rows, cols) = depth_of(model), model.grid(x.shape[-2], x.shape[-1])
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
    """Check that rows of (B, heads, N, N) are distributions, and that reading them leaves the answer as it is."""
    depth, plain = depth_of(model), answer(model.run(x))
    found: dict[int, Tensor] = {}
    with model.attention(found.__setitem__, x):
        ensure(torch.equal(answer(model.run(x)), plain), "the answer changes while attention is read")
    ensure(sorted(found) == list(range(depth)), f"attention comes from blocks {sorted(found)}, not from all {depth}")
    rows, cols = model.grid(x.shape[-2], x.shape[-1])
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
        ensure_same(answer(model.run(x)), plain, "the answer changes when attention is differentiable")


@model_check
def check_cam_layer_reached(model: VisionModel, x: Tensor) -> None:
    """Check that the answer depends on every cell of `cam_layer`, in at least one of the images."""
    stages_of(model)
    layer = model.cam_layer()
    with model.leaf_at(layer) as leaf:
        scores = answer(model.run(x))
        weights = torch.linspace(-1, 1, scores.shape[1], device=x.device, dtype=scores.dtype)
        ensure(scores.requires_grad, f"the answer has no gradient at {layer.name!r}")
        grad = torch.autograd.grad((scores * weights).sum(), leaf[0], allow_unused=True)[0]
    ensure(grad is not None, f"the answer does not depend on {layer.name!r}")
    cells = model.to_grid(grad, layer, x.shape[-2:]).abs().sum(1).amax(0)
    dead = int((cells == 0).sum())
    ensure(not dead, f"{dead} of {cells.numel()} cells of {layer.name!r} never matter")


@model_check
def check_other_input_sizes(model: VisionModel, x: Tensor) -> None:
    """Check that a wider image gives grids as wide in proportion, or a `SeewhyError`."""
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
    """Check that a changed patch shows most in its place: in stages, `cam_layer`, the first and last attention."""
    stages_of(model)
    found = locate(model, size=(x.shape[-2], x.shape[-1]), channels=x.shape[1])
    if not found:
        raise SkipTest(f"{model.name} has no grid of three rows and columns at this size")
    tokens = {stage.name for stage in model.structure.stages if stage.layout == "tokens" and stage.stride is None}
    for located in found:
        # a patch of the model's own size has one token; attention and the cells of deep convolutions mix neighbors
        settled = located.is_right or located.faint if located.name in tokens else not located.is_wrong
        ensure(settled, f"{located}, {located.exact} of them exactly")


@model_check
def check_layer_lookup(model: VisionModel, x: Tensor) -> None:
    """Check that stages are found by name and number, and that an unknown layer is an `UnknownNameError`."""
    for i, stage in enumerate(stages_of(model)):
        found = model.layer(stage.name) == stage == model.layer(i)
        ensure(found, f"{stage.name} is not found by name and number")
    with expect(UnknownNameError, "an unknown layer"):
        model.layer("no_such_layer")

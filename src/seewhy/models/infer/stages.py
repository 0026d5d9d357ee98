"""Finding feature maps, tokens and transformer blocks in the trace of an unknown module.

By what happened, not by shape alone: a map counts if all of the score's information passes through it, its layout
follows from the modules that made or took it, patch tokens are those that change with the image, and a layer for
gradients must let the gradient through.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seewhy.errors import LayoutError, UnknownNameError
from seewhy.models.infer.layouts import LayoutHints, Layouts, sides
from seewhy.models.infer.trace import BATCH, Attending, Call, Trace
from seewhy.models.structure import Block, Layer

ASK_TOKENS = "say how the tokens lie: wrap(module, patch_size=…, prefix_tokens=…)"


@dataclass(frozen=True)
class Grid:
    """How tokens lie: `prefix` tokens first, then rows × cols patches, row by row."""

    rows: int
    cols: int
    prefix: int


@dataclass(frozen=True)
class Spot:
    """A call whose output lies on a grid, as a layer."""

    call: Call
    layer: Layer
    grid: tuple[int, int]


Found = tuple[Block, Call, Call]
"""A block, with the calls of the block and of its norm."""


class StructureFinder:
    """Reads a trace. `result` is what the score is made of: the logits, or the embedding."""

    def __init__(self, trace: Trace, result: Tensor, hints: LayoutHints) -> None:
        self.trace, self.result, self.hints = trace, result, hints
        self.layouts = Layouts(trace, hints)
        self.calls = trace.once()
        self.bottlenecks = trace.bottlenecks(result)
        weighted = [c.end for c in trace.calls if any(True for _ in c.module.parameters(recurse=False))]
        self.first_weights = min(weighted, default=0)

    # ── what stands in the way of all information ─────────────────────────────────────────────────────────────────
    def _is_bottleneck(self, call: Call) -> bool:
        return call.edge is not None and call.edge.node in self.bottlenecks

    def _learned(self, spot: Spot) -> bool:
        """Not a mere change of the image, and not a pooling, after which a map is only coarser."""
        call = spot.call
        pooled = call.edge is not None and "Pool" in call.edge.node.name()
        return call.end >= self.first_weights and not pooled

    # ── tokens ────────────────────────────────────────────────────────────────────────────────────────────────────
    def token_grid(self, tokens: int, before: int) -> Grid:
        """How `tokens` tokens lie, as first seen; `before` is when the layer that asks started.

        Raises:
            LayoutError: it cannot be known.
        """
        everywhere, top = self.trace.differing.get(tokens, torch.zeros(2, tokens, dtype=torch.bool))
        patches = int(everywhere.sum())
        prefix = self.hints.prefix_tokens
        if 0 < patches < tokens:  # else there is no prefix, or its tokens depend on the image as well
            if not everywhere[tokens - patches :].all():
                raise LayoutError(
                    "tokens that do not depend on the image come after the patch tokens or between them; "
                    "reorder them in the module, so that they come first"
                )
            prefix = tokens - patches if prefix is None else prefix
        rows, cols = self._patch_grid(tokens, prefix, before) or self._measured_grid(tokens, prefix, top)
        stride = self.stride((rows, cols))
        if tuple(side // pixels for side, pixels in zip(self.trace.size, stride, strict=True)) != (rows, cols):
            raise LayoutError(
                f"{rows}×{cols} patches do not divide images of {'×'.join(map(str, self.trace.size))}; "
                "give an input_size that is a multiple of the patch size"
            )
        return Grid(rows, cols, tokens - rows * cols)

    def _patch_grid(self, tokens: int, prefix: int | None, before: int) -> tuple[int, int] | None:
        """Rows and columns from the patch size that the user gave, or from the last map that became tokens."""
        if self.hints.patch_size:
            rows, cols = (side // patch for side, patch in zip(self.trace.size, self.hints.patch_size, strict=True))
            if rows * cols > tokens or prefix not in (None, tokens - rows * cols):
                raise LayoutError(
                    f"{tokens} tokens are not {prefix or 0} + {rows}×{cols}; check patch_size= and prefix_tokens="
                )
            return rows, cols
        maps = [
            sides(c.value, "nchw")
            for c in self.trace.calls
            if c.end < before and self.layouts.evidence.get(id(c.value)) == "nchw"
        ]
        fitting = [
            g
            for g in maps
            if self.layouts.fits(*g)
            and (g[0] * g[1] == tokens - prefix if prefix is not None else tokens // 2 < g[0] * g[1] <= tokens)
        ]
        return fitting[-1] if fitting else None

    def _measured_grid(self, tokens: int, prefix: int | None, top: Tensor) -> tuple[int, int]:
        """Rows and columns by the tokens that the image's top row of pixels reaches: the first row of patches."""
        prefix = prefix or 0
        cols = int(top[prefix:].sum())
        in_order = 0 < cols < tokens - prefix and bool(top[prefix : prefix + cols].all())
        # patches that overlap give a multiple of their columns, far off the image's proportions
        rows, rest = divmod(tokens - prefix, max(1, cols))
        if not in_order or rest or not self.layouts.fits(rows, cols, tolerance=1):
            raise LayoutError(f"how {tokens} tokens lie on the image cannot be told; {ASK_TOKENS}")
        return rows, cols

    def grid(self, blocks: Sequence[Found]) -> Grid | None:
        """How the patch tokens lie, of the blocks, or of what else takes tokens on the way to the score (a mixer).

        Raises:
            LayoutError: it cannot be known.
        """
        calls = [call for _, call, __ in blocks] or [
            c for c in self.calls if self._is_bottleneck(c) and self._token_to_token(c)
        ]
        if not calls:
            return None
        try:
            return self.token_grid(calls[0].shape[1], calls[0].start)
        except LayoutError:
            if blocks or self.hints != LayoutHints(layout=self.hints.layout):
                raise
            return None  # no tokens of an image at all, as far as anybody knows

    # ── transformer blocks ────────────────────────────────────────────────────────────────────────────────────────
    def blocks(self) -> list[Found]:
        """Blocks with global attention and a norm before it, with the calls of the block and of its norm."""
        per_call: dict[int, list[Attending]] = {}
        for attending in self.trace.attending:
            for call in attending.stack:
                per_call.setdefault(id(call), []).append(attending)
        single = {key for key, inside in per_call.items() if len(inside) == 1}
        found = [block for attending in self.trace.attending if (block := self._block(attending, single))]
        # one grid for all: of a pyramid, the blocks at its top
        return [block for block in found if block[1].shape[1] == found[-1][1].shape[1]]

    def _block(self, attending: Attending, single: set[int]) -> Found | None:
        """The outermost call around this attention alone that takes tokens, norms them first, and gives tokens."""
        once = set(map(id, self.calls))
        for depth, call in enumerate(attending.stack):
            if id(call) not in single & once or not self._token_to_token(call, attending.tokens):
                continue
            inner = [c for c in attending.stack[depth + 1 :] if id(c) in once]
            norm = next((c for c in self.calls if call.start < c.start and _norms(c, call.inputs[0])), None)
            attention = next((c for c in inner if norm and c.start > norm.end), None)
            if norm and attention and norm.name.startswith(f"{call.name}."):
                return Block(call.name, norm.name, attention.name), call, norm
        return None

    def _token_to_token(self, call: Call, tokens: int | None = None) -> bool:
        shape, inputs = call.shape, call.inputs
        if len(shape) != 3 or shape[0] != BATCH or not inputs or inputs[0].ndim != 3:
            return False
        same = inputs[0].shape[1] == shape[1] == (tokens or shape[1])
        return same and (self._is_bottleneck(call) or not self.bottlenecks)

    # ── stages ────────────────────────────────────────────────────────────────────────────────────────────────────
    def spot(self, call: Call, grid: Grid | None) -> Spot | None:
        """The call's output as a layer; tokens lie on `grid`, or on a coarser one with the same proportions."""
        layout = self.layouts.layout(call)
        if layout:
            return Spot(call, Layer(call.name, layout), sides(call.value, layout))
        if grid is None or len(call.shape) != 3 or call.shape[0] != BATCH:
            return None
        if call.shape[1] == grid.prefix + grid.rows * grid.cols:
            return Spot(call, Layer(call.name, "tokens"), (grid.rows, grid.cols))
        factor = math.isqrt(grid.rows * grid.cols // max(1, call.shape[1]))
        rows, cols = grid.rows // max(1, factor), grid.cols // max(1, factor)
        if factor < 2 or rows * cols != call.shape[1] or min(rows, cols) < 2:
            return None
        return Spot(call, Layer(call.name, "tokens", self.stride((rows, cols)), prefix=0), (rows, cols))

    def stride(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Pixels per cell of a grid."""
        return tuple(side // cells for side, cells in zip(self.trace.size, grid, strict=True))

    def stages(self, grid: Grid | None, blocks: Sequence[Found] = ()) -> list[Spot]:
        """The last map of each run of equal resolution on the way to the score, and all tokens: of `blocks` if any.

        Where several modules give the same output, the outermost names it. A resolution that occurs only beside the
        way (the middle of a U-net) brings its last map as well.
        """
        way = [s for c in self._on_the_way() if (s := self.spot(c, grid))]
        tokens = [s for s in way if s.layer.layout == "tokens"]
        maps = [s for s in way if s.layer.layout != "tokens" and self._learned(s)]
        runs = [list(run) for _, run in itertools.groupby(maps, key=lambda spot: spot.grid)]
        lasts = [self._last(run, after and after[0].grid) for run, after in itertools.zip_longest(runs, runs[1:])]
        on_grid = {(grid.rows, grid.cols)} if grid else set()
        beside = {
            s.grid: s
            for c in self.calls
            if self.layouts.evidence.get(id(c.value)) == "nchw"
            and (s := self.spot(c, grid))
            and self._learned(s)
            and s.grid not in on_grid | {w.grid for w in way}
        }
        others = [s for s in (*lasts, *tokens) if s.grid not in on_grid or (s in tokens and not blocks)]
        others += [s for s in beside.values() if self.reaches(s, grid)]
        outputs = [s for _, call, __ in blocks if (s := self.spot(call, grid))]
        return [*sorted(others, key=lambda spot: spot.call.end), *outputs]

    def _last(self, run: list[Spot], after: tuple[int, int] | None) -> Spot:
        """The last of maps with equal resolution that is no first step of a module which leads to the next one."""

        def leads_on(spot: Spot) -> bool:
            ways = [c for c in self.calls if c.start < spot.call.start and spot.call.end < c.end and c.inputs]
            return any(
                c.inputs[0].ndim == len(c.shape) == 4
                and sides(c.inputs[0], spot.layer.layout) == spot.grid
                and sides(c.value, spot.layer.layout) == after
                and is_step(spot.call, c)
                for c in ways
            )

        def is_step(call: Call, of: Call) -> bool:
            """One layer of the module (at most one convolution) or its beginning: not one block after others."""
            first = not any(of.start < spot.call.start and spot.call.end < call.start for spot in run)
            return first or sum(p.ndim > 1 for p in call.module.parameters()) < 2

        return next((spot for spot in reversed(run) if not leads_on(spot)), run[-1])

    def _on_the_way(self) -> list[Call]:
        places: dict = {}
        for call in self.calls:
            tokens = self._token_to_token(call) and call.value is not call.inputs[0]
            if self._is_bottleneck(call) and (len(call.shape) == 4 or tokens):
                places.setdefault(call.place, []).append(call)
        outermost = [min(same, key=lambda call: (call.name.count("."), call.end)) for same in places.values()]
        return sorted(outermost, key=lambda call: call.end)

    def named(self, layer: str | Layer, grid: Grid | None) -> Spot:
        """A layer that the user named.

        Raises:
            UnknownNameError: there is no such module. LayoutError: its output lies on no grid that is known.
        """
        name = layer if isinstance(layer, str) else layer.name
        call = next((c for c in self.calls if c.name == name), None)
        if call is None:
            if times := sum(c.name == name for c in self.trace.calls):
                raise LayoutError(f"{name!r} runs {times} times in a forward, or gives no tensor; choose another layer")
            raise UnknownNameError("layer", name, [c.name for c in self.calls])
        if isinstance(layer, Layer):
            return Spot(call, layer, (0, 0))
        if len(call.shape) == 3 and grid is None:
            grid = self.token_grid(call.shape[1], call.end)
        spot = self.spot(call, grid)
        if spot is None:
            raise LayoutError(
                f"{name!r} gives shape {call.shape}, which lies on no grid; choose another layer, "
                "or say layout=, or patch_size= and prefix_tokens="
            )
        return spot

    def reaches(self, spot: Spot, grid: Grid | None) -> bool:
        """Whether the score depends on the cells of the layer, not only on its prefix tokens."""
        gradient = self.trace.gradient(self.result, spot.call)
        if gradient is None:
            return False
        prefix = (grid.prefix if grid else 0) if spot.layer.prefix is None else spot.layer.prefix
        return bool((gradient[:, prefix:] != 0).any()) if spot.layer.layout == "tokens" else bool((gradient != 0).any())

    def listens_to_first(self, last: Call) -> bool:
        """Whether the score depends on the first token behind the last block."""
        gradient = self.trace.gradient(self.result, last)
        return gradient is not None and bool((gradient[:, 0] != 0).any())


def _norms(call: Call, tensor: Tensor) -> bool:
    """Whether the call is a norm of this very tensor."""
    is_norm = "norm" in type(call.module).__name__.lower()
    return is_norm and bool(call.inputs) and call.inputs[0] is tensor and call.shape == tuple(tensor.shape)

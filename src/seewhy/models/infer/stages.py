"""Feature layers of an unknown module.

By what happened, not by shape alone: a map counts if all of the score's information passes through it, its layout
follows from the modules that made or took it, patch tokens are those that change with the image, and a layer for
gradients must let the gradient through.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from seewhy.errors import LayoutError, UnknownNameError
from seewhy.models.infer.blocks import TracedBlock
from seewhy.models.infer.evidence import Evidence
from seewhy.models.infer.layouts import sides
from seewhy.models.infer.tokens import TokenGrid, infer_token_grid, scaled
from seewhy.models.infer.trace import Call, TokenAxes, token_axes
from seewhy.models.structure import Layer


@dataclass(frozen=True)
class GridLayer:
    """A call whose output lies on a grid, as a layer.

    Attributes:
        call: The call.
        layer: The layer.
        cells: Rows and columns, of volumes depth as well; (0, 0) for a layer that the user described.
    """

    call: Call
    layer: Layer
    cells: tuple[int, ...]

    @property
    def is_tokens(self) -> bool:
        """Whether the output is tokens, not a map."""
        return self.layer.layout in ("tokens", "sequence")


class StageFinder:
    """Finds the layers of a traced module.

    Args:
        evidence: What the trace says.
        grid: How patch tokens lie, if there are any.
        blocks: The transformer blocks.
        is_result: Whether a map already holds the class scores of its cells.
    """

    def __init__(
        self,
        evidence: Evidence,
        grid: TokenGrid | None,
        blocks: Sequence[TracedBlock],
        is_result: Callable[[GridLayer], bool],
    ) -> None:
        self.evidence = evidence
        self.grid = grid
        self.blocks = blocks
        self.is_result = is_result

    # ── one layer ─────────────────────────────────────────────────────────────────────────────────────────────────
    def grid_layer(self, call: Call) -> GridLayer | None:
        """Return the call's output as a layer; tokens lie on the grid, or on a coarser one of the same proportions."""
        return self._on_grid(call, self.grid)

    def _on_grid(self, call: Call, grid: TokenGrid | None) -> GridLayer | None:
        layout = self.evidence.layouts.layout(call)
        if layout and call.value is not None:
            return GridLayer(call, Layer(call.name, layout), sides(call.value, layout))
        axes = token_axes(call.shape)
        if grid is None or axes is None:
            return None
        if axes.tokens == grid.tokens:
            return GridLayer(call, Layer(call.name, axes.layout), grid.cells)
        return self._on_other_grid(call, axes, grid)

    def _on_other_grid(self, call: Call, axes: TokenAxes, grid: TokenGrid) -> GridLayer | None:
        """Return tokens of another level of a pyramid, with a prefix of their own."""
        prefix = self._prefix_of(axes.tokens)
        cells = scaled(grid.cells, axes.tokens - prefix)
        if cells is None or not self.evidence.come_from_image(axes.tokens):
            return None
        return GridLayer(call, Layer(call.name, axes.layout, self.evidence.stride(cells), prefix), cells)

    def _prefix_of(self, tokens: int) -> int:
        """Count the tokens before the first that depends on the image, when so many were first seen."""
        differing = self.evidence.trace.differing_tokens.get(tokens)
        patches = int(differing[0].sum()) if differing is not None else 0
        return tokens - patches if differing is not None and patches and differing[0, tokens - patches :].all() else 0

    def named(self, layer: str | Layer) -> GridLayer:
        """Return a layer that the user named.

        Raises:
            UnknownNameError: There is no such module.
            LayoutError: Its output lies on no grid that is known.
        """
        name = layer if isinstance(layer, str) else layer.name
        call = self._call_of(name)
        if isinstance(layer, Layer):
            return GridLayer(call, layer, (0, 0))
        grid = self.grid
        axes = token_axes(call.shape)
        if grid is None and axes:
            grid = infer_token_grid(self.evidence, axes.tokens, call.end)
        found = self._on_grid(call, grid)
        if found is None:
            raise LayoutError(
                f"{name!r} gives shape {call.shape}, which lies on no grid; choose another layer, "
                "or say layout=, or patch_size= and prefix_tokens="
            )
        return found

    def _call_of(self, name: str) -> Call:
        for call in self.evidence.calls:
            if call.name == name:
                return call
        times = sum(call.name == name for call in self.evidence.trace.calls)
        if times:
            raise LayoutError(f"{name!r} runs {times} times in a forward, or gives no tensor; choose another layer")
        raise UnknownNameError("layer", name, [call.name for call in self.evidence.calls])

    def reaches_score(self, layer: GridLayer) -> bool:
        """Tell whether the score depends on the cells of the layer, not only on its prefix tokens."""
        gradient = self.evidence.gradient(layer.call)
        if gradient is None:
            return False
        if layer.is_tokens:
            default = self.grid.prefix if self.grid else 0
            gradient = gradient.transpose(0, 1) if layer.layer.layout == "sequence" else gradient
            gradient = gradient[:, default if layer.layer.prefix is None else layer.layer.prefix :]
        return bool((gradient != 0).any())

    def prefix_reaching_score(self, last: Call, prefix: int) -> list[int]:
        """Return the numbers of the prefix tokens behind the last block that the score depends on."""
        gradient = self.evidence.gradient(last)
        axes = token_axes(last.shape)
        if gradient is None or axes is None:
            return []
        tokens = gradient if axes.layout == "tokens" else gradient.transpose(0, 1)
        return [i for i in range(prefix) if bool((tokens[:, i] != 0).any())]

    # ── all of them ───────────────────────────────────────────────────────────────────────────────────────────────
    def stages(self) -> list[GridLayer]:
        """Return the last map of each run of equal resolution on the way to the score, and all tokens, in order.

        Of blocks, the tokens are their outputs. Where several modules give the same output, the outermost names it.
        A resolution that occurs only beside the way (the middle of a U-net) brings its last map as well.
        """
        on_way = [layer for call in self._calls_on_way() if (layer := self.grid_layer(call))]
        on_way = [layer for layer in on_way if not self.is_result(layer)]
        token_cells: set[tuple[int, ...]] = {self.grid.cells} if self.grid else set()
        # maps on the grid of the tokens are made into them (patches), or of them (a decoder)
        end = max((layer.call.end for layer in on_way if layer.is_tokens), default=-1)
        maps = [m for m in self._last_maps(on_way) if m.cells not in token_cells or m.call.end > end]
        # where there are blocks, their outputs stand for the tokens on the grid
        tokens = [layer for layer in on_way if layer.is_tokens and (layer.cells not in token_cells or not self.blocks)]
        beside = self._maps_beside_way(token_cells | {layer.cells for layer in on_way})
        outputs = [layer for block in self.blocks if (layer := self.grid_layer(block.call))]
        return sorted([*maps, *tokens, *beside, *outputs], key=lambda layer: layer.call.end)

    def _calls_on_way(self) -> list[Call]:
        """Return the calls of maps and tokens that all information passes; of equal outputs, the outermost call."""
        by_place: dict[object, list[Call]] = {}
        for call in self.evidence.calls:
            is_tokens = self.evidence.is_token_to_token(call) and call.value is not call.inputs[0]
            if self.evidence.is_bottleneck(call) and (len(call.shape) == self.evidence.layouts.dims or is_tokens):
                by_place.setdefault(call.place, []).append(call)
        outermost = [min(same, key=lambda call: (call.name.count("."), call.end)) for same in by_place.values()]
        return sorted(outermost, key=lambda call: call.end)

    def _last_maps(self, on_way: Sequence[GridLayer]) -> list[GridLayer]:
        """Return one map of each run of maps with equal resolution."""
        maps = [layer for layer in on_way if not layer.is_tokens and self.evidence.is_learned(layer.call)]
        runs = [list(run) for _, run in itertools.groupby(maps, key=lambda layer: layer.cells)]
        next_cells = [run[0].cells for run in runs[1:]]
        return [self._last_of_run(run, cells) for run, cells in itertools.zip_longest(runs, next_cells)]

    def _maps_beside_way(self, known: set[tuple[int, ...]]) -> list[GridLayer]:
        """Return the last map of each resolution that occurs only beside the way to the score."""
        last_by_cells: dict[tuple[int, ...], GridLayer] = {}
        for call in self.evidence.calls:
            if self.evidence.layouts.evidence.get(id(call.value)) != "nchw":
                continue
            layer = self.grid_layer(call)
            if layer and layer.cells not in known and self.evidence.is_learned(call) and not self.is_result(layer):
                last_by_cells[layer.cells] = layer
        return [layer for layer in last_by_cells.values() if self.reaches_score(layer)]

    def branches(self, after: GridLayer | None) -> list[GridLayer]:
        """Return the ends of the branches that lead to the score beside each other: no other of their layers is passed.

        Args:
            after: The deepest layer that all information passes; None: there is none.
        """
        start = after.call.end if after else -1
        beside: list[GridLayer] = []
        for call in self.evidence.calls:
            if call.start <= start or not self.evidence.is_learned(call) or self._is_in_bottleneck(call, start):
                continue
            is_map = self.evidence.layouts.evidence.get(id(call.value)) == "nchw"
            layer = self.grid_layer(call) if is_map or token_axes(call.shape) else None
            if layer and (after is None or math.prod(layer.cells) < math.prod(after.cells)):
                beside.append(layer)
        ends = [layer for layer in beside if not self._leads_to(layer, beside) and self.reaches_score(layer)]
        paths = [layer.call.name.split(".") for layer in ends]
        depth = next((i for i, parts in enumerate(zip(*paths, strict=False)) if len(set(parts)) > 1), 0)
        return list({path[depth]: layer for path, layer in zip(paths, ends, strict=True)}.values())  # one of each part

    def _leads_to(self, layer: GridLayer, others: Sequence[GridLayer]) -> bool:
        """Tell whether all that the score hears of a layer passes one of the others behind it."""
        passed = self.evidence.trace.between(self.evidence.result, layer.call)
        places = (other.call.edge.node for other in others if other.call.edge and other.call.end > layer.call.end)
        return any(node in passed for node in places)

    def _is_in_bottleneck(self, call: Call, start: int) -> bool:
        """Tell whether all information passes the call, or one around it that began later than `start`."""
        around = (c for c in self.evidence.calls if start < c.start <= call.start and call.end <= c.end)
        return any(self.evidence.is_bottleneck(c) for c in around)

    def _last_of_run(self, run: list[GridLayer], next_cells: tuple[int, ...] | None) -> GridLayer:
        """Return the last map of a run that is no first step of a module which leads to the next resolution."""
        for layer in reversed(run):
            if not any(self._leads_on(layer, call, run, next_cells) for call in self.evidence.calls):
                return layer
        return run[-1]

    def _leads_on(
        self, layer: GridLayer, around: Call, run: list[GridLayer], next_cells: tuple[int, ...] | None
    ) -> bool:
        """Tell whether the layer is a step inside of a call from this resolution to the next one."""
        if not (around.start < layer.call.start and layer.call.end < around.end and around.inputs):
            return False
        if around.value is None or not around.inputs[0].ndim == around.value.ndim == self.evidence.layouts.dims:
            return False
        layout = layer.layer.layout
        if sides(around.inputs[0], layout) != layer.cells or sides(around.value, layout) != next_cells:
            return False
        # one layer of the module (at most one convolution) or its beginning: not one block after others
        is_first = not any(around.start < other.call.start and other.call.end < layer.call.start for other in run)
        return is_first or sum(p.ndim > 1 for p in layer.call.module.parameters()) < 2

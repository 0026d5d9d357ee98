"""Tell which axes of a map are rows and columns: by the modules that make and take it, then by its proportions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from seewhy.errors import LayoutError
from seewhy.models.infer.trace import BATCH, Call, Trace

CHANNELS_SECOND = (
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.Upsample,
)
"""Modules that take and give (B, C, rows, cols), or (B, C, depth, rows, cols)."""

IN_VOLUMES = {"nchw": "ncdhw", "nhwc": "ndhwc"}
"""By layout of an image's map, that of a volume's."""

LAYOUT_PRESERVING = (
    nn.ReLU,
    nn.ReLU6,
    nn.GELU,
    nn.SiLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.Hardswish,
    nn.Mish,
    nn.PReLU,
    nn.Tanh,
)
"""Modules whose output lies as their input does."""


@dataclass(frozen=True)
class LayoutHints:
    """The user's hints about layouts and tokens; None where there is none.

    Attributes:
        layout: Of maps whose layout is not evident, `nchw` or `nhwc`.
        patch_size: Pixels per patch (rows, cols).
        prefix_tokens: Tokens before the patch tokens.
    """

    layout: str | None = None
    patch_size: tuple[int, int] | None = None
    prefix_tokens: int | None = None


@dataclass(frozen=True)
class Layouts:
    """Reads the layouts of maps out of a trace.

    Attributes:
        trace: The trace.
        hints: What the user said.
    """

    trace: Trace
    hints: LayoutHints

    @property
    def dims(self) -> int:
        """How many axes maps have: 4, of volumes 5."""
        return 2 + len(self.trace.size)

    @cached_property
    def evidence(self) -> dict[int, str]:
        """By identity of the tensor: the layout that the module has which made it, or takes it."""
        layouts: dict[int, str] = {}
        for call in self.trace.calls:
            layout = _module_layout(call)
            if call.value is not None and call.inputs and isinstance(call.module, LAYOUT_PRESERVING):
                layout = layouts.get(id(call.inputs[0]))
            if not layout or call.value is None:
                continue
            for tensor in (*call.inputs[:1], call.value):
                if tensor.ndim == self.dims and (layout == "nchw" or id(tensor) not in layouts):
                    layouts[id(tensor)] = layout
        return layouts

    @cached_property
    def _only_layout(self) -> str | None:
        """The layout of all maps whose layout is evident, if they agree."""
        values = [call.value for call in self.trace.calls if call.value is not None]
        evident = [(value, self.evidence[id(value)]) for value in values if id(value) in self.evidence]
        kinds = {layout for value, layout in evident if min(sides(value, layout)) > 1}
        return kinds.pop() if len(kinds) == 1 else None

    def layout(self, call: Call) -> str | None:
        """Return `nchw` or `nhwc`, of volumes `ncdhw` or `ndhwc`; None: the output is no map.

        Raises:
            LayoutError: It could be either.
        """
        if call.value is None or call.value.ndim != self.dims or call.shape[0] != BATCH:
            return None
        if self.dims == 5:  # proportions tell little, but all maps of a volume mostly lie alike
            kind = self.evidence.get(id(call.value)) or self._only_layout or ""
            return IN_VOLUMES.get(kind) if max(sides(call.value, kind)) > 1 else None
        if self.hints.layout in ("nchw", "nhwc"):
            return self.hints.layout
        value = call.value
        evident = self.evidence.get(id(value))
        if evident:
            return evident if min(sides(value, evident)) > 1 else None
        fitting = [kind for kind in ("nchw", "nhwc") if self.fits(*sides(value, kind))]
        if len(fitting) == 2 and self._only_layout in fitting:
            return self._only_layout
        exact = [kind for kind in fitting if self.fits(*sides(value, kind), tolerance=1e-6)]
        if len(exact) == 1:
            return exact[0]
        if len(fitting) == 2:
            raise LayoutError(
                f"{call.name!r} gives shape {call.shape}: its channels could come second or last; "
                "say wrap(module, layout='nchw') or layout='nhwc'"
            )
        return fitting[0] if fitting else None

    def fits(self, rows: int, cols: int, *, tolerance: float = 0.2) -> bool:
        """Tell whether a grid has the image's proportions, up to what convolutions without padding cut off."""
        height, width = self.trace.size
        if not (1 < rows <= height and 1 < cols <= width):
            return False
        return abs(math.log((height / rows) / (width / cols))) <= tolerance


def _module_layout(call: Call) -> str | None:
    """Return the layout of what a module itself takes and gives, for modules that have one."""
    module = call.module
    if isinstance(module, CHANNELS_SECOND):
        return "nchw"
    if isinstance(module, nn.Linear):
        return "nhwc"
    # classes made from LayerNorm may permute inside; the plain one norms the last axis
    if isinstance(module, nn.LayerNorm) and type(module).forward is nn.LayerNorm.forward:
        return "nhwc" if len(tuple(module.normalized_shape)) == 1 else None
    return None


def sides(value: Tensor, layout: str) -> tuple[int, ...]:
    """Return rows and columns of a map, of volumes depth, rows and columns."""
    return tuple(value.shape[1:-1] if layout.endswith("c") else value.shape[2:])

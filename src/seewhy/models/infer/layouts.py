"""Which axes of a map are rows and columns: by the modules that make and take it, then by its proportions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from seewhy.errors import LayoutError
from seewhy.models.infer.trace import BATCH, Call, Trace

NCHW = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.Upsample,
)
PASSING = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.Hardswish, nn.Mish, nn.PReLU, nn.Tanh)


@dataclass(frozen=True)
class LayoutHints:
    """What the user said, where it is not None."""

    layout: str | None = None
    patch_size: tuple[int, int] | None = None
    prefix_tokens: int | None = None


@dataclass(frozen=True)
class Layouts:
    """Reads the layouts of maps out of a trace."""

    trace: Trace
    hints: LayoutHints

    @cached_property
    def evidence(self) -> dict[int, str]:
        """By identity of the tensor: the layout that the module has which made it, or takes it."""
        found: dict[int, str] = {}
        for call in self.trace.calls:
            layout = _own_layout(call)
            if call.value is not None and call.inputs and isinstance(call.module, PASSING):
                layout = found.get(id(call.inputs[0]))
            if layout and call.value is not None:
                for tensor in (*call.inputs[:1], call.value):
                    if tensor.ndim == 4 and (layout == "nchw" or id(tensor) not in found):
                        found[id(tensor)] = layout
        return found

    @cached_property
    def _only_layout(self) -> str | None:
        """The layout of all maps whose layout is evident, if they agree."""
        alive = {id(c.value): c.value for c in self.trace.calls if c.value is not None}
        kinds = {kind for key, kind in self.evidence.items() if key in alive and min(sides(alive[key], kind)) > 1}
        return kinds.pop() if len(kinds) == 1 else None

    def layout(self, call: Call) -> str | None:
        """`nchw` or `nhwc`; None: no map.

        Raises:
            LayoutError: it could be either.
        """
        if len(call.shape) != 4 or call.shape[0] != BATCH:
            return None
        if self.hints.layout in ("nchw", "nhwc"):
            return self.hints.layout
        evident = self.evidence.get(id(call.value))
        if evident:
            return evident if min(sides(call.value, evident)) > 1 else None
        fitting = [kind for kind in ("nchw", "nhwc") if self.fits(*sides(call.value, kind))]
        if len(fitting) == 2 and self._only_layout in fitting:
            return self._only_layout
        exact = [kind for kind in fitting if self.fits(*sides(call.value, kind), tolerance=1e-6)]
        if len(exact) == 1:
            return exact[0]
        if len(fitting) == 2:
            raise LayoutError(
                f"{call.name!r} gives shape {call.shape}: its channels could come second or last; "
                "say wrap(module, layout='nchw') or layout='nhwc'"
            )
        return fitting[0] if fitting else None

    def fits(self, rows: int, cols: int, tolerance: float = 0.2) -> bool:
        """Whether a grid has the image's proportions, up to what convolutions without padding cut off."""
        height, width = self.trace.size
        if not (1 < rows <= height and 1 < cols <= width):
            return False
        return abs(math.log((height / rows) / (width / cols))) <= tolerance


def _own_layout(call: Call) -> str | None:
    """The layout of what a module itself takes and gives, for modules that have one."""
    module = call.module
    if isinstance(module, NCHW):
        return "nchw"
    # classes made from LayerNorm may permute inside; the plain one norms the last axis
    plain_norm = isinstance(module, nn.LayerNorm) and type(module).forward is nn.LayerNorm.forward
    if isinstance(module, nn.Linear) or (plain_norm and len(module.normalized_shape) == 1):
        return "nhwc"
    return None


def sides(value: Tensor, layout: str) -> tuple[int, int]:
    """Rows and columns of a map."""
    return tuple(value.shape[1:3] if layout == "nhwc" else value.shape[2:4])

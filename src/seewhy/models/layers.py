"""Finding a layer by what a user writes, and laying its output out on a grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seewhy.errors import LayoutError, UnknownNameError
from seewhy.models.structure import Layer, Structure

LayerLike = str | int | nn.Module | Layer
"""What a user may write for a layer: a dotted name, the number of a stage, the module itself, or a `Layer`."""

_CHANNELS_SECOND = (
    nn.Conv2d,
    nn.Conv3d,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
)


MOST_CHANNELS = 32
"""A first convolution with more inputs than this is not taken for the one that reads images."""


def input_channels(module: nn.Module) -> int:
    """Return how many channels a module's images have: those of its first convolution, 3 where that does not tell."""
    convolutions = [part for part in module.modules() if isinstance(part, nn.Conv2d) and part.groups == 1]
    if not convolutions or any(part.in_channels == 3 for part in convolutions):
        return 3
    first = convolutions[0].in_channels
    return first if first <= MOST_CHANNELS else 3


class LayerIndex:
    """The layers of one model, and how their outputs lie.

    Args:
        module: The model's module.
        structure: What is known of it.
        name: The model's name, for messages.
    """

    def __init__(self, module: nn.Module, structure: Structure, name: str) -> None:
        self.module = module
        self.structure = structure
        self.name = name

    # ── finding one ───────────────────────────────────────────────────────────────────────────────────────────────
    def layer(self, spec: LayerLike | None, layout: str | None) -> Layer:
        """Return the layer that `spec` means; see `VisionModel.layer`."""
        if isinstance(spec, Layer):
            self.submodule(spec.name)
            return spec
        if spec is None and self.structure.ask:
            raise LayoutError(f"{self.name}: {self.structure.ask}")
        if spec is None or isinstance(spec, int):
            return self.stage(-1 if spec is None else spec)
        name = self._name_of(spec) if isinstance(spec, nn.Module) else spec
        self.submodule(name)
        if layout is not None:
            return Layer(name, layout)
        for listed in (*self.structure.stages, self.structure.cam_layer):
            if listed is not None and listed.name == name:
                return listed
        return Layer(name, self._infer_layout(name))

    def stage(self, index: int) -> Layer:
        """Return a stage by its number, negative from the end."""
        stages = self.structure.stages
        if not stages:
            raise LayoutError(f"{self.name} has no feature maps that seewhy knows of; name one with layer=")
        if not -len(stages) <= index < len(stages):
            raise UnknownNameError("stage", str(index), [str(i) for i in range(len(stages))])
        return stages[index]

    def cam_layer(self, spec: LayerLike | None) -> Layer:
        """Return the layer for methods that differentiate; see `VisionModel.cam_layer`."""
        layer = self.structure.cam_layer if spec is None else None
        layer = layer or self.layer(spec, None)
        reads_class_token_only = self.structure.class_token and not self.structure.reads_patches
        if reads_class_token_only and self.structure.blocks and self._is_after_last_attention(layer.name):
            raise LayoutError(
                f"the score does not depend on the patch tokens of {layer.name!r}, after the last "
                f"attention; use layer={self.structure.blocks[-1].norm1!r}"
            )
        return layer

    def submodule(self, name: str) -> nn.Module:
        """Return the module of that dotted name."""
        try:
            return self.module.get_submodule(name)
        except AttributeError:
            known = [n for n, _ in self.module.named_modules() if n]
            raise UnknownNameError("layer", name, known, f"`seewhy info {self.name}` lists the stages") from None

    def _name_of(self, module: nn.Module) -> str:
        for name, candidate in self.module.named_modules():
            if candidate is module:
                return name
        raise UnknownNameError(
            "layer", type(module).__name__, [], "it is not part of this model; pass a module of model.module"
        )

    def _is_after_last_attention(self, name: str) -> bool:
        last = self.structure.blocks[-1]
        if name == last.name or name.startswith(f"{last.name}."):
            # modules need not be defined in the order in which they run, so inside the block go by role
            return name != last.norm1 and not name.startswith(last.attention)
        order = [n for n, _ in self.module.named_modules()]
        return order.index(name) > order.index(last.name)

    def _infer_layout(self, name: str) -> str:
        """Return the layout of an unlisted layer: by the module's own kind, else that of the stage it belongs to."""
        if isinstance(self.submodule(name), _CHANNELS_SECOND):
            return "ncdhw" if self.structure.volume else "nchw"
        for stage in self.structure.stages:
            if name.startswith(stage.name + "."):
                return stage.layout
        layouts = {stage.layout for stage in self.structure.stages}
        if len(layouts) == 1:
            return layouts.pop()
        raise LayoutError(f"the layout of {name!r} is ambiguous; say layout='nchw', 'nhwc', 'tokens' or 'sequence'")

    # ── laying its output out ─────────────────────────────────────────────────────────────────────────────────────
    def grid(self, height: int, width: int, stride: tuple[int, int] | None) -> tuple[int, int]:
        """Return rows and columns of the patch grid; see `VisionModel.grid`."""
        stride = stride or self.structure.patch_size
        if stride is None:
            raise LayoutError(f"{self.name}: the patch size is unknown; wrap(module, patch_size=…)")
        if not self.structure.pads:
            return height // stride[0], width // stride[1]
        return -(-height // stride[0]), -(-width // stride[1])

    def to_grid(self, value: Tensor, layer: Layer, size: Sequence[int]) -> Float[Tensor, "batch channels *grid"]:
        """Return a layer's output as (B, C, rows, cols), or (B, C, depth, rows, cols); see `VisionModel.to_grid`."""
        if layer.layout in ("tokens", "sequence"):
            return self.tokens_to_grid(value, layer, size)
        if value.ndim != (5 if "d" in layer.layout else 4):
            raise LayoutError(
                f"layer {layer.name!r} gives shape {tuple(value.shape)}, not a {layer.layout} map; "
                "choose a layer on a grid, or say layout='tokens'"
            )
        return value.movedim(-1, 1) if layer.layout.endswith("c") else value

    def tokens_to_grid(
        self, value: Tensor, layer: Layer, size: Sequence[int]
    ) -> Float[Tensor, "batch channels rows cols"]:
        """Return tokens (B, N, C) as (B, C, rows, cols), without prefix tokens."""
        rows, cols = self.grid(size[0], size[1], layer.stride)
        prefix = self.structure.prefix_tokens if layer.prefix is None else layer.prefix
        if layer.layout == "sequence" and value.ndim == 3:
            value = value.transpose(0, 1)
        if value.ndim != 3 or value.shape[1] != prefix + rows * cols:
            raise LayoutError(
                f"layer {layer.name!r} gives shape {tuple(value.shape)}, not "
                f"(batch, {prefix} + {rows}×{cols}, channels); "
                "say how the tokens lie: wrap(module, patch_size=…, prefix_tokens=…)"
            )
        value = value[:, prefix:]
        if layer.order is not None:
            if (len(layer.order), len(layer.order[0])) != (rows, cols):
                raise LayoutError(
                    f"the order of the tokens of {layer.name!r} is known for {len(layer.order)}×{len(layer.order[0])} "
                    f"cells, not for {rows}×{cols}; wrap the module again with this input_size="
                )
            value = value[:, torch.tensor(layer.order, device=value.device).flatten()]
        return value.transpose(1, 2).unflatten(2, (rows, cols))

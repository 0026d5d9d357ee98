"""Base of the CAM methods: activations and gradients on the grid, of one layer or of several in one forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seewhy.core.maps import linear, normalize, upcast
from seewhy.errors import LayoutError, ModelError, OptionError
from seewhy.methods.base import Method, option, row_gradients
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import NO_GRADIENT, first_tensor, hooked, with_first_tensor
from seewhy.models.structure import Layer
from seewhy.targets import Target

Pair = tuple[Float[Tensor, "batch channels *grid"], Float[Tensor, "batch channels *grid"]]


@dataclass(kw_only=True, eq=False)
class SingleLayerCAM(Method):
    """A method whose map is some combination of one layer's activations and gradients, on the layer's grid."""

    scores_once = shares_gradients = True

    layer: Any = option(
        default=None,
        help="layer by dotted name, module or stage number; default: the last that can be explained; of a list the "
        "maps' mean",
    )

    def setup(self) -> None:
        """Settle the layer, or layers."""
        self.layers_ = several_layers(self.model, self.layer, self.model.cam_layer)
        self.layer_ = self.layers_[0]

    @staticmethod
    def combine(
        activations: Float[Tensor, "batch channels *grid"], gradients: Float[Tensor, "batch channels *grid"]
    ) -> Float[Tensor, "batch *grid"]:
        """Combine activations and gradients to the map.

        Args:
            activations: The layer's output on its grid.
            gradients: ∂ score / ∂ activations.
        """
        raise NotImplementedError

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch *grid"]:
        """Compute the maps as the class describes them."""
        pairs = activations_and_gradients(self.model, x, self.layers_, target)
        return mean_of_layers([self.of_layer(*pair) for pair in pairs], x)

    def of_layer(
        self, activations: Float[Tensor, "batch channels *grid"], gradients: Float[Tensor, "batch channels *grid"]
    ) -> Float[Tensor, "batch *grid"]:
        """Return the map of one layer, as the options say; by default `combine`.

        Args:
            activations: The layer's output on its grid.
            gradients: ∂ score / ∂ activations.
        """
        return self.combine(activations, gradients)


def activations_and_gradients(model: VisionModel, x: Tensor, layers: Sequence[Layer], target: Target) -> list[Pair]:
    """Return (A, ∂f/∂A) of each layer on its grid, at least float32, from one forward and one backward.

    Below the layer that runs first nothing is differentiated.

    Args:
        model: The model.
        x: The batch.
        layers: The layers whose output is A.
        target: The target whose score is f.

    Raises:
        LayoutError: When a layer does not run, or runs twice.
        ModelError: When the score does not depend on a layer.
    """
    modules, index = {layer.name: model.submodule(layer.name) for layer in layers}, model.image_index
    with _cut_and_collected(modules) as outputs:
        score = target.score(model.run(x))
    activations = [outputs[layer.name] for layer in layers]
    gradients = [g for g in row_gradients(score, activations, index=index) if g is not None]
    if len(gradients) < len(activations):
        raise ModelError(NO_GRADIENT)

    def on_grid(value: Tensor, layer: Layer) -> Tensor:
        return model.to_grid(upcast(value.detach()), layer, x.shape[-2:])

    return [
        (on_grid(index.expand(activation) if index else activation, layer), on_grid(grad, layer))
        for activation, grad, layer in zip(activations, gradients, layers, strict=True)
    ]


@contextmanager
def _cut_and_collected(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Cut the graph (as `hooks.cut`) at whichever module runs first; collect the outputs of all, inside the graph."""
    outputs: dict[str, Tensor] = {}
    with torch.no_grad(), ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(hooked(module, partial(_collect, outputs, name)))
        yield outputs
    missing = sorted(set(modules) - set(outputs))
    if missing:
        raise LayoutError(f"layer {missing[0]!r} did not run in this forward; choose another layer")


def _collect(outputs: dict[str, Tensor], name: str, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
    """Collect a layer's output in its hook; gradients begin at whichever layer runs first."""
    if name in outputs:
        raise LayoutError(f"layer {name!r} runs more than once in a forward; choose one that runs once")
    value = first_tensor(output)
    if not outputs:
        torch.set_grad_enabled(True)
        value = value.detach().clone().requires_grad_()
    outputs[name] = value
    # the forward goes on with a copy: an in-place operation must not change what was collected
    return with_first_tensor(output, value.clone())


def several_layers(model: VisionModel, spec: Any, find: Callable[[Any], Layer]) -> list[Layer]:
    """Return the layer that a user names, or those of a list, from shallow to deep.

    Args:
        model: The model.
        spec: What the option `layer` holds.
        find: From one name to the layer.

    Raises:
        OptionError: The list is empty.
    """
    if not isinstance(spec, list | tuple):
        return [find(spec)]
    if not spec:
        raise OptionError("layer=[] names no layer; give at least one, as layer=['layer3', 'layer4']")
    order = [name for name, _ in model.module.named_modules()]
    layers = {layer.name: layer for layer in map(find, spec)}
    return sorted(layers.values(), key=lambda layer: order.index(layer.name))


def mean_of_layers(maps: Sequence[Float[Tensor, "batch ..."]], x: Tensor) -> Float[Tensor, "batch ..."]:
    """Return the map of one layer as it is, of several their mean at the input's pixels, each brought to [0, 1] first.

    As pytorch-grad-cam does for a list of `target_layers`.
    """
    if len(maps) == 1:
        return maps[0]
    unit = [unit_range(each, x.ndim - 2)[:, None] for each in maps]
    up = [F.interpolate(each, x.shape[2:], mode=linear(each), align_corners=False)[:, 0] for each in unit]
    return torch.stack(up).mean(0)


def unit_range(maps: Float[Tensor, "*maps"], axes: int = 2) -> Float[Tensor, "*maps"]:
    """Bring each map to [0, 1] by its own minimum and maximum; a constant map becomes zero, never NaN."""
    return normalize(maps, signed=False, axes=axes)


def cells(values: Tensor) -> tuple[int, ...]:
    """Return the axes of (B, C, rows, cols), or of a volume, over which the cells lie."""
    return tuple(range(2, values.ndim))

"""Base of the CAM methods: activations and gradients on the grid, of one layer or of several in one forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seewhy.core.maps import normalize, upcast
from seewhy.errors import LayoutError, ModelError
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
        default=None, help="layer by dotted name, module or stage number; default: the last that can be explained"
    )

    def setup(self) -> None:
        """Settle the layer."""
        self.layer_ = self.model.cam_layer(self.layer)

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
        return self.combine(*activations_and_gradients(self.model, x, [self.layer_], target)[0])


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


def unit_range(maps: Float[Tensor, "*maps"], axes: int = 2) -> Float[Tensor, "*maps"]:
    """Bring each map to [0, 1] by its own minimum and maximum; a constant map becomes zero, never NaN."""
    return normalize(maps, signed=False, axes=axes)


def cells(values: Tensor) -> tuple[int, ...]:
    """Return the axes of (B, C, rows, cols), or of a volume, over which the cells lie."""
    return tuple(range(2, values.ndim))

"""Score-CAM: a layer's channels, weighted by the score of the image seen through each."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.core.maps import linear, spread_over
from seewhy.methods.base import (
    BATCH_SIZE,
    Method,
    all_scores_equal,
    chunks,
    images_per_pass,
    method,
    option,
    repeat_target,
    upcast,
)
from seewhy.methods.cam.base import unit_range
from seewhy.models.adapter import VisionModel
from seewhy.targets import Target


@method(
    name="score_cam",
    title="Score-CAM",
    summary="Where the channels lie that keep the score high when only what they show is left of the image.",
    needs={Capability.FEATURES},
    signed=False,
    class_specific=True,
    volumes=True,
    citation="Wang et al., Score-CAM (CVPR-W 2020), eq. 2-4 and algorithm 1",
    cost=lambda self: Cost.split(below=Passes(self.passes + 1), above=Passes(self.passes)),
)
class ScoreCAM(Method):
    """M = ReLU(Σ_c w_c A_c), w = softmax over channels of f(x ∘ H_c), H_c = s(up(A_c)).

    up is bilinear to the input's size, s min-max to [0, 1] after it. No gradients: one forward for each channel and
    one, truncated, for the channels themselves. x is normalized, so what H_c hides gets the mean color. The paper's
    weight is f(x ∘ H_c) − f(baseline) before the softmax; the softmax takes the same number off again, so the
    baseline is not run. f is the target's logit. A channel that is the same everywhere hides all of the image
    (H_c = 0): its score, that of an empty image, takes part in the softmax.

    A score that is the same through all channels says nothing of them (a class that never activates; equal weights
    would show the layer's mean as if it were the class): the map is then zero, and reported as constant.

    `top_k` is the declared selection of channels: those whose activation varies most over the positions of the image
    (standard deviation; ties by index). The softmax is then over these only. Maps on the layer's grid.
    """

    layer: Any = option(
        default=None, help="layer by dotted name, module or stage number; default: the last that can be explained"
    )
    top_k: int | None = option(
        default=None, help="only the channels that vary most over the image; default: all", at_least=1, repeats=True
    )
    batch_size: int = option(default=16, help=BATCH_SIZE, at_least=1)

    def setup(self) -> None:
        """Settle the layer and the number of its channels."""
        self.layer_ = self.model.cam_layer(self.layer)
        self._width = channels_at(self.model, self.layer_.name)

    @property
    def passes(self) -> int:
        """Forward passes of the whole model: the number of channels that mask the image."""
        return self._width if self.top_k is None else min(self.top_k, self._width)

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch *grid"]:
        """Compute the maps as the class describes them."""
        features = upcast(self.model.activations(x, [self.layer_])[self.layer_.name])
        self._width = features.shape[1]
        features = self._selected(features)
        batch, n = features.shape[:2]
        parts = []
        for start, stop in chunks(n, batch, images_per_pass(self.batch_size, x)):
            part = features[:, start:stop]
            masks = F.interpolate(part, x.shape[2:], mode=linear(part), align_corners=False)
            masks = unit_range(masks, x.ndim - 2).transpose(0, 1)[:, :, None]
            masked = (x * masks.to(x.dtype)).flatten(0, 1)
            score = target_score(self.model, masked, repeat_target(target, batch, stop - start))
            parts.append(score.unflatten(0, (-1, batch)))
        scores = torch.cat(parts).T
        axes = x.ndim - 2
        maps = (spread_over(scores.softmax(1), axes) * features).sum(1).relu()
        low, high = unit_range(features, axes).aminmax(dim=1)
        uninformative = all_scores_equal(scores) & (high > low).flatten(1).any(1)
        return torch.where(spread_over(uninformative, axes), 0, maps)

    def _selected(self, features: Tensor) -> Tensor:
        if self.top_k is None or self.top_k >= features.shape[1]:
            return features
        order = features.flatten(2).std(2).sort(dim=1, descending=True, stable=True).indices[:, : self.top_k]
        return features.gather(1, spread_over(order, features.ndim - 2).expand(-1, -1, *features.shape[2:]))


def target_score(model: VisionModel, x: Tensor, target: Target) -> Float[Tensor, "batch"]:
    """Return the target's score, at least float32."""
    return upcast(target.score(model.run(x)))


def channels_at(model: VisionModel, name: str) -> int:
    """Return the number of channels at a layer: the width of the last module up to its end that has one, else 1."""
    layer, before = model.submodule(name), []
    for module in model.module.modules():
        if module is layer:
            before += list(layer.modules())
            break
        before.append(module)
    widths = (w for module in reversed(before) if (w := _width_of(module)))
    return next(widths, 1)


def _width_of(module: nn.Module) -> int:
    for attribute in ("out_channels", "num_features", "num_channels", "out_features"):
        if isinstance(width := getattr(module, attribute, None), int):
            return width
    shape = getattr(module, "normalized_shape", None)
    return shape[-1] if shape else 0

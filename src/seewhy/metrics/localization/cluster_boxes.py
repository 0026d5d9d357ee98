"""Cluster boxes, CorLoc and AP@50: does a box around a cluster of the features fit an object's?"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from seewhy.core.boxes import Box, box_iou, pad_boxes
from seewhy.core.cards import Requirement
from seewhy.core.segmentation import BORDER, MIN_AREA, Component, background_clusters, choose_box, component_boxes
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.inputs import required
from seewhy.metrics.localization.box_iou import average_precision


@runtime_checkable
class MakesClusters(Protocol):
    """A method that gives a label map, as NAVE does."""

    def segments(self, x: Float[Tensor, "batch channels height width"]) -> Int64[Tensor, "batch rows cols"]:
        """Return the cluster of every position."""
        ...


@metric(
    name="cluster_boxes",
    title="Cluster boxes",
    summary="The box that is chosen among the clusters' components, without ground truth, is the box of an object.",
    needs={Requirement.BOXES, Requirement.MODEL, Requirement.METHOD},
    bounds=(0.0, 1.0),
    higher_is_better=True,
    citation="Boubekki, Fadel & Mair, Activation Clustering (2024), arXiv:2411.19700: localization",
    passes=lambda self: 1,
    parts={"corloc": True, "oracle": True, "oracle_corloc": True, "confidence": None, "objects": None},
    aggregates={"ap50": True},
    monotone_invariant=True,
)
class ClusterBoxes(Metric):
    """Largest IoU between one box of the method's clusters and any of the objects' boxes; the map is not looked at.

    The connected components (4 neighbors) of every cluster are boxed; small ones and the image's edge are left out
    (`seewhy.core.segmentation.component_boxes`). One of them is **chosen** without ground truth by `choose_box`, whose
    rule is ours: the value, and `corloc` = 1 if its IoU ≥ 0.5. **oracle** is the largest IoU of any component, what
    the best of all boxes would give, and `oracle_corloc` = 1 if that is ≥ 0.5: the share that the authors' script
    prints. The two must not be mixed up: the oracle is hardly worse without training. No component: 0.

    `confidence` = the chosen component's share of the image that is core; `objects` = how many boxes the image has. Of
    a whole set: `ap50`, the average precision of the chosen boxes (`box_iou.average_precision`). The method clusters
    once more for it. A method without clusters has no value.
    """

    shape: str = option(
        default="tight", help="box around the whole component, or around its median", choices=("tight", "inner")
    )
    min_area: int | None = option(
        default=None, help=f"pixels of the smallest component; default: {MIN_AREA} from 224 pixels on", at_least=0
    )
    border: int | None = option(
        default=None, help=f"pixels along the edge that are left out; default: {BORDER} from 224 pixels on", at_least=0
    )

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return the images whose boxes are all empty, and all of them where the method has no clusters."""
        boxes = pad_boxes(required(inputs.boxes, "boxes"), maps.device)
        empty = ~((boxes[..., 2:] - boxes[..., :2]) > 0).all(-1).any(1)
        no_clusters = not isinstance(inputs.method, MakesClusters)
        return {
            "every box is empty": empty,
            "the method makes no clusters": torch.full_like(empty, no_clusters),
        }

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the IoU of the chosen box and of the best one."""
        method = required(inputs.method, "method")
        assert isinstance(method, MakesClusters), "`undefined` leaves no row of another method"
        objects = required(inputs.boxes, "boxes")
        labels = method.segments(inputs.model_inputs.x).cpu().numpy()
        size = (maps.shape[-2], maps.shape[-1])
        chosen_iou, oracle_iou, confidence = [], [], []
        for image, own in zip(labels, objects, strict=True):
            components = component_boxes(image, size, self.min_area, self.border)
            ious = self._ious([self._box(each) for each in components], own)
            chosen = choose_box(components, background_clusters(image))
            chosen_iou.append(0.0 if chosen is None else float(ious[components.index(chosen)]))
            oracle_iou.append(float(ious.max()) if components else 0.0)
            confidence.append(0.0 if chosen is None else chosen.presence / (size[0] * size[1]))
        value, oracle, sure, n = (
            torch.tensor(values, dtype=torch.float64, device=maps.device)
            for values in (chosen_iou, oracle_iou, confidence, [float(len(own)) for own in objects])
        )
        parts = {
            "corloc": (value >= 0.5).double(),
            "oracle": oracle,
            "oracle_corloc": (oracle >= 0.5).double(),
            "confidence": sure,
            "objects": n,
        }
        return Measurement(value, parts)

    @staticmethod
    def aggregate(values: dict[str, Float[Tensor, "maps"]]) -> dict[str, float]:
        """Compute the average precision at IoU 0.5 of the chosen boxes."""
        return {"ap50": average_precision(values[""], values["confidence"], values["objects"])}

    def _box(self, component: Component) -> Box:
        return component.box if self.shape == "tight" else component.inner

    def _ious(self, boxes: list[Box], objects: Float[Tensor, "_ 4"]) -> Float64[Tensor, "boxes"]:
        """Return for each box its largest IoU with an object."""
        corners = torch.tensor([[b.left, b.top, b.right, b.bottom] for b in boxes], dtype=torch.float64).reshape(-1, 4)
        if not len(corners) or not len(objects):
            return torch.zeros(len(corners), dtype=torch.float64)
        return box_iou(corners, objects.cpu().double().expand(len(corners), -1, 4)).amax(1)

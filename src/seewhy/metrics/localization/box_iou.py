"""Box IoU, CorLoc and AP@50: does the box round the map's main region fit an object's?"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.boxes import box_iou, pad_boxes, pixels_in_boxes
from seewhy.core.cards import Requirement
from seewhy.core.segmentation import BOX_KINDS, largest_boxes
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.localization.thresholds import RULES, check_rule, region
from seewhy.metrics.masked_values import pixels


@metric(
    name="box_iou",
    title="Box IoU",
    summary="The box round the map's main region is the box of an object.",
    needs={Requirement.BOXES},
    bounds=(0.0, 1.0),
    higher_is_better=True,
    citation="Deselaers et al., Weakly Supervised Localization and Learning with Generic Knowledge (2012): CorLoc; "
    "Everingham et al., The PASCAL VOC Challenge (2010): AP; NAVE (2024), arXiv:2411.19700: the inner box",
    parts={"corloc": True, "confidence": None, "objects": None},
    aggregates={"ap50": True},
)
class BoxIoU(Metric):
    """Largest IoU between the map's box and any of the objects' boxes.

    The map's box: threshold (as mIoU), largest connected part (4 neighbors), its tight box, or NAVE's inner box
    round the median. Nothing above the threshold: IoU 0.

    Parts: `corloc` = 1 if IoU ≥ 0.5 (its mean over images is CorLoc); `confidence` = the share of the positive values
    in the map's box; `objects` = how many boxes the image has. Of a whole set: `ap50`, see `average_precision`.
    """

    rule: str = option("max", "how the threshold is chosen", choices=RULES)
    level: float | None = option(None, "share of the maximum, for the rules max (default 0.5) and best")
    shape: str = option("tight", "box around all pixels of the region, or around its median", choices=tuple(BOX_KINDS))
    absolute: bool = option(False, "look at |value|")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rule(self.rule, self.level)

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        boxes = pad_boxes(given.boxes, maps.device)
        return {"every box is empty": ~((boxes[..., 2:] - boxes[..., :2]) > 0).all(-1).any(1)}

    def score(self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs) -> Measurement:
        found = pixels(maps, given, self.absolute)
        own = largest_boxes(region(found, self.rule, self.level).reshape(maps.shape), self.shape)
        value = box_iou(own, pad_boxes(given.boxes, maps.device)).amax(1)
        mass = found.positive
        within = (mass * found.inside(pixels_in_boxes(own[:, None], *maps.shape[-2:]))).sum(1)
        confidence = torch.where(mass.sum(1) > 0, within / mass.sum(1), 0.0)
        objects = torch.tensor([float(len(b)) for b in given.boxes], dtype=torch.float64, device=maps.device)
        parts = {"corloc": (value >= 0.5).double(), "confidence": confidence, "objects": objects}
        return Measurement(value, parts)

    @staticmethod
    def aggregate(values: dict[str, Float[Tensor, "maps"]]) -> dict[str, float]:
        return {"ap50": average_precision(values[""], values["confidence"], values["objects"])}


def average_precision(
    iou: Float[Tensor, "images"], confidence: Float[Tensor, "images"], objects: Float[Tensor, "images"], at: float = 0.5
) -> float:
    """AP of one box per image: the area under precision over recall, from the stored value and parts of `BoxIoU`.

    The boxes of all images in order of falling confidence; a box is right if IoU ≥ `at`; recall counts all objects.
    Precision at a recall is the best at that or a larger one (VOC 2010 and later). Boxes of equal confidence come in
    together: their order is no merit. Images without a value (NaN) are left out.

    One box per image finds one object per image at most, so AP cannot exceed images / objects. Our copy of the NAVE
    paper does not say whether its AP@50 is this or CorLoc, which are not the same number: reports have both.
    """
    known = torch.isfinite(iou)
    iou, confidence, objects = iou[known].double(), confidence[known].double(), objects[known].double()
    if not len(iou):
        return float("nan")
    confidence, order = confidence.sort(descending=True)
    right = (iou[order] >= at).double().cumsum(0)
    seen = torch.arange(1, len(iou) + 1, device=iou.device).double()
    last = torch.ones_like(right, dtype=torch.bool)
    last[:-1] = confidence[:-1] != confidence[1:]
    precision = (right / seen)[last].flip(0).cummax(0).values.flip(0)
    recall = right[last] / objects.sum()
    return float((precision * recall.diff(prepend=recall.new_zeros(1))).sum())

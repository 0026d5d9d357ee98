"""Box IoU, CorLoc and AP@50: does the box around the map's main region fit an object's?"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.boxes import box_iou, pad_boxes, pixels_in_boxes
from seewhy.core.cards import Requirement
from seewhy.core.segmentation import BOX_KINDS, largest_boxes
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.inputs import required
from seewhy.metrics.localization.thresholds import RULES, check_rule, region
from seewhy.metrics.masked_values import pixels


@metric(
    name="box_iou",
    title="Box IoU",
    summary="The box around the map's main region is the box of an object.",
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
    around the median. Nothing above the threshold: IoU 0.

    Parts: `corloc` = 1 if IoU ≥ 0.5 (its mean over images is CorLoc); `confidence` = the share of the positive values
    in the map's box; `objects` = how many boxes the image has. Of a whole set: `ap50`, see `average_precision`.
    """

    rule: str = option(default="max", help="how the threshold is chosen", choices=RULES)
    level: float | None = option(default=None, help="share of the maximum, for the rules max (default 0.5) and best")
    shape: str = option(
        default="tight", help="box around all pixels of the region, or around its median", choices=tuple(BOX_KINDS)
    )
    absolute: bool = option(default=False, help="look at |value|")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rule(self.rule, self.level)

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return the images whose boxes are all empty."""
        boxes = pad_boxes(required(inputs.boxes, "boxes"), maps.device)
        return {"every box is empty": ~((boxes[..., 2:] - boxes[..., :2]) > 0).all(-1).any(1)}

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the largest IoU of the map's box."""
        flat = pixels(maps, inputs, self.absolute)
        boxes = required(inputs.boxes, "boxes")
        map_boxes = largest_boxes(region(flat, self.rule, self.level).reshape(maps.shape), self.shape)
        value = box_iou(map_boxes, pad_boxes(boxes, maps.device)).amax(1)
        mass = flat.positive
        mass_in_box = (mass * flat.inside(pixels_in_boxes(map_boxes[:, None], *maps.shape[-2:]))).sum(1)
        confidence = torch.where(mass.sum(1) > 0, mass_in_box / mass.sum(1), 0.0)
        objects = torch.tensor([float(len(each)) for each in boxes], dtype=torch.float64, device=maps.device)
        parts = {"corloc": (value >= 0.5).double(), "confidence": confidence, "objects": objects}
        return Measurement(value, parts)

    @staticmethod
    def aggregate(values: dict[str, Float[Tensor, "maps"]]) -> dict[str, float]:
        """Compute the average precision at IoU 0.5."""
        return {"ap50": average_precision(values[""], values["confidence"], values["objects"])}


def average_precision(
    iou: Float[Tensor, "images"], confidence: Float[Tensor, "images"], objects: Float[Tensor, "images"], at: float = 0.5
) -> float:
    """Compute AP of one box per image, the area under precision over recall, from value and parts of `BoxIoU`.

    The boxes of all images in order of falling confidence; a box is right if IoU ≥ `at`; recall counts all objects.
    Precision at a recall is the best at that or a larger one (VOC 2010 and later). Boxes of equal confidence come in
    together: their order is no merit. Images without a value (NaN) are left out.

    One box per image finds one object per image at most, so AP cannot exceed images / objects. Our copy of the NAVE
    paper does not say whether its AP@50 is this or CorLoc, which are not the same number: reports have both.

    Args:
        iou: The value for each image.
        confidence: The part of that name.
        objects: The part of that name.
        at: The least IoU of a right box.
    """
    scored = torch.isfinite(iou)
    iou, confidence, objects = iou[scored].double(), confidence[scored].double(), objects[scored].double()
    if not len(iou):
        return float("nan")
    confidence, order = confidence.sort(descending=True)
    right = (iou[order] >= at).double().cumsum(0)
    boxes = torch.arange(1, len(iou) + 1, device=iou.device).double()
    last = torch.ones_like(right, dtype=torch.bool)  # of the boxes of one confidence
    last[:-1] = confidence[:-1] != confidence[1:]
    precision = (right / boxes)[last].flip(0).cummax(0).values.flip(0)
    recall = right[last] / objects.sum()
    return float((precision * recall.diff(prepend=recall.new_zeros(1))).sum())

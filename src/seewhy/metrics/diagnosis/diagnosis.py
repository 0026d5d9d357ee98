"""Diagnosis: is the model right, blind, or confused, and does it look at the background?"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.cards import Capability, Requirement
from seewhy.errors import OptionError, RequirementError
from seewhy.methods import METHODS
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.inputs import required
from seewhy.metrics.localization.auc import AUC
from seewhy.metrics.recompute import recompute_maps
from seewhy.models.instrument.hooks import untouched
from seewhy.targets import ClassTarget, Output


@metric(
    name="diagnosis",
    title="Diagnosis",
    summary="The model sees the object, gives its class, and for the class's evidence it looks at the object.",
    needs={Requirement.MODEL, Requirement.MASK, Requirement.LABEL},
    bounds=(0.0, 1.0),
    higher_is_better=True,
    citation="Our reading of Karjauv & Albayrak, LaFAM (2024), arXiv:2407.06059: blind or confused?",
    passes=lambda self: 2,
    parts={"right": True, "blind": False, "confused": False, "background": False, "background_reliant": False},
)
class Diagnosis(Metric):
    """Three questions about an image, and a verdict (1 for `right`, which is also the value, `blind` or `confused`).

    | is the object seen? | is its class the answer? | is the evidence on it? | verdict  |
    |---------------------|--------------------------|------------------------|----------|
    | no                  | either                   | either                 | blind    |
    | yes                 | no                       | either                 | confused |
    | yes                 | yes                      | no                     | confused |
    | yes                 | yes                      | yes                    | right    |

    Seen: on the label-free map a pixel of the object is above one of the background (outside of every object) with a
    probability (AUC) of `seen` or more. Its class is the answer: its logit is the largest, or for a model with a
    probability for each class on its own (`multi_label`) 0.5 or more. Evidence: the positive values of the map that is
    scored; it lies on the object if it is denser there than outside, by mean value per pixel. So the size of the object
    does not matter, nor how far a coarse map spills over its edge. A map without positive values has no evidence
    anywhere.

    Apart from that, `background` is the share of the evidence that lies outside of every object (with a coarse map half
    of it, for a model without fault), and `background_reliant` is 1 where evidence is denser there than on the objects:
    the sign of a short-cut. `MetricInputs.objects`, if given, says what else is an object; `valid` is respected.

    Score the maps of the class that the model answers to find out what it relies on, or those of the true class. The
    default threshold lies between what was measured on scenes with LaFAM: AUC 0.83 and more for 95 % of the objects
    in `multi` with the CNN that knows them, 0.69 and less for three quarters of `shortcut` with the one that knows
    nothing but the mark.

    One forward for the answer and what the label-free method needs (LaFAM: a truncated one), once for all maps of the
    images. LaFAM is made for CNNs: in a ViT the object's tokens may have the smallest mean or norm. Then say
    `label_free="attention_map"` or `"relax"`; nothing is chosen silently.

    Raises:
        RequirementError: When the label-free method cannot serve the model.
        TargetError: When the model does not have a label.
    """

    label_free: str = option(default="lafam", help="the method that shows what is active at all; a label-free one")
    seen: float = option(
        default=0.75, help="AUC of the label-free map from which on the object counts as seen", at_least=0
    )
    upsampling: str = option(
        default="bilinear", help="of the label-free map to the input's size", choices=("bilinear", "nearest", "bicubic")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if METHODS[self.label_free].card.class_specific:
            choices = ", ".join(_label_free_methods())
            raise OptionError(f"label_free={self.label_free!r} depends on the class; choose from {choices}")
        if not self.seen <= 1:
            raise OptionError(f"seen={self.seen!r} is above 1, the largest AUC; use 0.5 to 1")

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return the images without background or without an answer."""
        return {
            "the objects leave no background": ~_background(inputs).flatten(1).any(1),
            "the model's answer is NaN or infinite": ~torch.isfinite(_logits(inputs)).all(1),
        }

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the verdict and the share of the background."""
        background = _background(inputs)
        masks = required(inputs.masks, "masks")
        valid = torch.ones_like(masks) if inputs.valid is None else inputs.valid
        mask = masks & valid
        seen = AUC()(self._label_free_maps(maps, inputs), masks=mask, valid=mask | background) >= self.seen
        evidence = maps.double().clamp(min=0) * valid
        on_object = _density(evidence, mask) > _density(evidence, valid & ~mask)
        right = seen & _answered(inputs) & on_object
        total = evidence.sum((1, 2))
        share = (evidence * background).sum((1, 2)) / total.where(total > 0, 1)
        reliant = _density(evidence, background) > _density(evidence, valid & ~background)
        parts = {
            "right": right.double(),
            "blind": (~seen).double(),
            "confused": (seen & ~right).double(),
            "background": share,
            "background_reliant": reliant.double(),
        }
        return Measurement(parts["right"].clone(), parts)

    def _label_free_maps(self, maps: Tensor, inputs: MetricInputs) -> Float[Tensor, "batch rows cols"]:
        model, x, _ = inputs.model_inputs
        method = METHODS[self.label_free]
        why = method.why_incompatible(model)
        if why:
            others = [name for name in _label_free_methods() if not METHODS[name].why_incompatible(model)]
            raise RequirementError(
                f"{method.card.title} cannot serve {model.name}: {why}; choose label_free= "
                f"from {', '.join(others) or 'none'}"
            )
        key = ("label-free", self.label_free, tuple(maps.shape[1:]), self.upsampling)
        return inputs.cached(key, lambda: recompute_maps(method(model), x, None, maps, self.upsampling))


def _label_free_methods() -> list[str]:
    return [method.card.name for method in METHODS.values() if not method.card.class_specific]


def _background(inputs: MetricInputs) -> Bool[Tensor, "batch rows cols"]:
    """Return the valid pixels outside of every object."""
    objects = required(inputs.masks, "masks")
    if inputs.objects is not None:
        objects = objects | torch.stack([masks.to(objects.device).any(0) for masks in inputs.objects])
    return ~objects if inputs.valid is None else ~objects & inputs.valid


def _logits(inputs: MetricInputs) -> Float[Tensor, "batch classes"]:
    return inputs.cached("output", partial(_output, inputs)).require(Capability.LOGITS).float()


def _output(inputs: MetricInputs) -> Output:
    model, x, _ = inputs.model_inputs
    with (
        torch.no_grad(),
        torch.autocast(x.device.type, enabled=False),
        model.shape_error_context(x),
        untouched(model.module),
    ):
        return model.run(x)


def _answered(inputs: MetricInputs) -> Bool[Tensor, "batch"]:
    """Tell whether the model answers the true class."""
    logits = _logits(inputs)
    labels = required(inputs.labels, "labels")
    score = ClassTarget(tuple(labels.tolist())).score(Output(logits=logits))
    # a single logit is that of "yes" against "no"
    independent = inputs.model_inputs.model.structure.multi_label or logits.shape[1] == 1
    return score >= 0 if independent else score >= logits.amax(1)


def _density(evidence: Tensor, region: Bool[Tensor, "batch rows cols"]) -> Float[Tensor, "batch"]:
    """Return the mean per pixel; 0 for an empty region."""
    return (evidence * region).sum((1, 2)) / region.sum((1, 2)).clamp(min=1)

"""The similarity of two images, explained on both."""

from __future__ import annotations

from typing import Any

from seewhy.core.images import ImageLike
from seewhy.errors import OptionError
from seewhy.explainer import explain
from seewhy.explanation import Explanation
from seewhy.methods.factory import MethodLike, as_method
from seewhy.models.adapter import VisionModel
from seewhy.targets.functions import MEASURES, reference


def explain_pair(
    model: VisionModel,
    first: ImageLike,
    second: ImageLike,
    method: MethodLike | None = None,
    *,
    measure: str = "cosine",
    **options: Any,
) -> tuple[Explanation, Explanation]:
    """Explain what makes two images similar to the model: on each, with the other's embedding held fixed.

    For a model that takes both images at once (change detection, trackers) wrap a module that takes one of them.

    Args:
        model: A model with an embedding (retrieval, metric learning, CLIP; of a classifier what its head reads).
        first: An image, as for `seewhy.explain`.
        second: The other.
        method: As for `seewhy.explain`; one that has a target.
        measure: `cosine`, `dot` or `l2` (the negative distance).
        **options: Options of the method.

    Returns:
        The explanation of the first image and that of the second; swapped images give them swapped. The similarity is
        `target["score"]` of both.

    Raises:
        OptionError: The method has no target, or no such option.
        TargetError: The model has no embedding.
        ImageError: An image cannot be read.
    """
    configured = as_method(model, method, **options)
    if not configured.card.class_specific:
        raise OptionError(
            f"{configured.card.title} has no target, so it cannot show what two images share; use grad_cam, saliency, "
            "integrated_gradients, occlusion or rise"
        )
    target = reference(model, [second, first], measure=measure, name="similarity")
    one, other = explain(model, [first, second], configured, target)
    vectors = target.vector
    score = float(MEASURES[measure](vectors[1], vectors[0]))
    for explanation in (one, other):
        explanation.target["score"] = score
    return one, other

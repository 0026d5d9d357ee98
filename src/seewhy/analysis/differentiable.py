"""Checks shared by analyses that differentiate a score."""

from __future__ import annotations

from seewhy.core.cards import Capability
from seewhy.errors import RequirementError
from seewhy.models.adapter import VisionModel
from seewhy.targets import Output, Target, TargetLike


def require_gradients(model: VisionModel, analysis: str) -> None:
    """Check that gradients of the model's scores can be computed.

    Raises:
        RequirementError: When they cannot.
    """
    if Capability.GRADIENTS not in model.capabilities:
        raise RequirementError(
            f"{analysis} needs gradients, which {model.name} does not provide; wrap the module itself with seewhy.wrap"
        )


def resolve_target(model: VisionModel, target: TargetLike) -> Target:
    """Return the target for any one image of the model.

    Raises:
        TargetError: When the model has no such output.
        UnknownNameError: When there is no class of that name.
    """
    resolved = model.as_target(target)
    if resolved.need not in model.capabilities:
        Output().require(resolved.need)  # raises the error with its advice
    resolved.check(1, model.classes)
    return resolved
